"""Random rules on random catalogues, judged by code of its own; `python -m benchmarks.fuzz` runs a million of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_rules import KINDS, run
from recsys.rules.arrangement import Arrangement, Caps
from recsys.rules.engine import Engine


def test_what_is_shown_may_be_shown_once_and_nothing_is_missing() -> None:
    tried, wrong = run(4_000, seed=0)
    assert not wrong, wrong[:3]
    assert set(tried) == set(KINDS) and min(tried.values()) > 300


@settings(max_examples=30, deadline=None)
@given(st.integers(min_value=1, max_value=2**32 - 1))
def test_the_same_from_anywhere(seed: int) -> None:
    _, wrong = run(50, seed)
    assert not wrong, wrong[:3]


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (Engine, "_gate", lambda *_: None),
        (Engine, "_narrow", lambda *_: None),
        (Caps, "fit", lambda *_: True),
        (Arrangement, "_pin", lambda *_: None),
        (Arrangement, "_reserve", lambda *_: None),
    ],
)
def test_the_judge_notices_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, instead: object
) -> None:
    monkeypatch.setattr(owner, name, instead)
    assert run(2_000, seed=1)[1]
