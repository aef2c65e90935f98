"""`recsys.train`: what a bundle's manifest says of how it was made."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from recsys.errors import UserError
from recsys.phase3 import DEFAULT
from recsys.train import configuration


def test_a_bundle_is_evaluated_as_it_was_trained_or_not_at_all() -> None:
    config = replace(DEFAULT, threshold=0.3, own_weight=1.5)
    manifest = {"version": "v", "params": asdict(config)}
    assert configuration(3, manifest) == config
    older = {name: value for name, value in asdict(config).items() if name != "own_weight"}
    for params in (older, {**asdict(config), "gone": 1}, {}):
        with pytest.raises(UserError, match=r"another version.*(own_weight|gone)"):
            configuration(3, {**manifest, "params": params})
