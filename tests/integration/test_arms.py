"""Experiments in the real service: shoppers stay in their arms, phases answer side by side, and the log says with what chance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsys.events import Surface
from recsys.experiments.reading import read_plan
from recsys.publish import publish
from recsys.store.database import database_url, opened
from recsys.store.reading import exposure
from service.retrace import retrace
from tests.integration.test_service import SURFACES, ask, eventually, ids
from tests.shop import running_service, write_tiny_bundle

PLAN = """
[layers.ranking]

[[experiments]]
name = "phases"
layer = "ranking"
control = "random"
start = 2026-01-01T00:00:00Z
surfaces = ["home", "similar", "new_arrivals"]
arms = [
    { name = "random", share = 0.25, phase = "random" },
    { name = "popular", share = 0.25, phase = "popularity" },
    { name = "one", share = 0.25, phase = "phase1" },
    { name = "two", share = 0.25, phase = "phase2" },
]
"""
SERVED_BY = {"random": "random", "popular": "popularity", "one": "phase1", "two": "phase2"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phase 2, which is live, and phase 1 before it."""
    folder = tmp_path_factory.mktemp("experiment")
    for phase in (1, 2):
        publish(folder / "bundles", write_tiny_bundle(folder, phase=phase).name)
    (folder / "experiments.toml").write_text(PLAN)
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[httpx.Client]:
    environment = {"RECSYS_EXPERIMENTS": str(data_dir / "experiments.toml")}
    with running_service(data_dir, 1, environment) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield client


def by_arm(client: httpx.Client, **parameters: Any) -> dict[str, list[dict[str, Any]]]:
    """Home answers of the known households, by the arm that each is in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for n in range(40):
        answer = ask(client, user_id=f"household-{n:02}", k=6, **parameters)
        found.setdefault(answer["arms"]["phases"], []).append(answer)
    return found


def test_every_arm_answers_with_its_own_phase(client: httpx.Client) -> None:
    answers = by_arm(client)
    assert set(answers) == set(SERVED_BY)
    for arm, given in answers.items():
        assert {answer["served_by"] for answer in given} == {SERVED_BY[arm]}
        assert all(len(set(ids(answer))) == 6 for answer in given)
    assert {answer["phase"] for answer in answers["one"]} == {1}
    assert {answer["phase"] for answer in answers["two"]} == {2}


def test_a_shopper_stays_in_an_arm_and_the_plan_says_which(client: httpx.Client, data_dir: Path) -> None:
    first, again = by_arm(client), by_arm(client)
    assert {arm: len(answers) for arm, answers in first.items()} == {
        arm: len(answers) for arm, answers in again.items()
    }
    plan = read_plan(data_dir / "experiments.toml")
    for n in range(40):
        user_id = f"household-{n:02}"
        (placement,) = plan.assign(user_id, None, Surface.HOME, datetime.now(UTC)).placements
        assert ask(client, user_id=user_id)["arms"] == {"phases": placement.arm}


def test_random_answers_differ_from_each_other_and_others_do_not(client: httpx.Client) -> None:
    first, again = by_arm(client), by_arm(client)
    for arm in SERVED_BY:
        same = [ids(one) == ids(other) for one, other in zip(first[arm], again[arm], strict=True)]
        assert not any(same) if arm == "random" else all(same)


def test_a_page_is_composed_from_two_arms_without_repeats(client: httpx.Client) -> None:
    widgets = [{"name": surface, "surface": surface, "k": 6} for surface in SURFACES]
    question = {"item_id": "item-03", "cart": ["item-05"], "widgets": widgets}
    for n in range(20):
        page = client.post("/page", json={"user_id": f"household-{n:02}", **question}).json()["widgets"]
        shown = [item_id for answer in page.values() for item_id in ids(answer)]
        assert len(set(shown)) == len(shown)
        assert page["home"]["arms"] == page["similar"]["arms"] != page["trending"]["arms"] == {}


def test_an_answer_of_every_arm_is_made_again(client: httpx.Client, data_dir: Path) -> None:
    plan = data_dir / "experiments.toml"
    answers = {arm: given[0] for arm, given in by_arm(client).items()}
    with opened(database_url(data_dir)) as engine:
        for answer in answers.values():
            eventually(lambda answer=answer: exposure(engine, answer["request_id"]) is not None)
            found = retrace(data_dir, engine, answer["request_id"], plan=plan)
            assert found.is_equal and found.doubts == () and list(found.items) == ids(answer)
        unknown = retrace(data_dir, engine, answers["random"]["request_id"])
    assert not unknown.is_equal and "the arm's changes are not known" in unknown.doubts[0]


def test_filters_hold_in_every_arm(client: httpx.Client) -> None:
    for answers in by_arm(client, category="DAIRY").values():
        for answer in answers:
            assert len(answer["items"]) == 6
            assert all(item["category"].startswith("DAIRY") for item in answer["items"])


def test_the_metrics_count_answers_by_arm(client: httpx.Client) -> None:
    by_arm(client)
    text = client.get("/metrics").text
    for arm in SERVED_BY:
        assert f'recsys_arm_answers_total{{arm="{arm}",degraded="false",experiment="phases",shop="default"}}' in text
