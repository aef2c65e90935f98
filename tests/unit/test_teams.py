"""Whose items were clicked, from the marts."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recsys.errors import UserError
from recsys.experiments.preference import preference
from recsys.experiments.teams import read_teams


def marts(folder: Path) -> Path:
    """ann clicks two items of a and one of b, bob one of b; eve saw nothing, and one answer was degraded."""
    rows = [
        ("r1", "i1", "a", True, False),
        ("r1", "i2", "b", True, False),
        ("r1", "i3", "a", True, False),
        ("r1", "i4", None, True, False),
        ("r2", "i1", "a", True, False),
        ("r2", "i2", "b", True, False),
        ("r3", "i1", "a", False, False),
        ("r4", "i1", "a", True, True),
    ]
    pl.DataFrame(rows, schema=["request_id", "item_id", "team", "is_seen", "degraded"], orient="row").write_parquet(
        folder / "exposures.parquet"
    )
    units = {"r1": "user:ann", "r2": "user:bob", "r3": "user:eve", "r4": "user:bob"}
    placed = [(request_id, "x", "both", unit) for request_id, unit in units.items()]
    pl.DataFrame(placed, schema=["request_id", "experiment", "arm", "unit"], orient="row").write_parquet(
        folder / "assignments.parquet"
    )
    clicks = [("r1", "i1"), ("r1", "i1"), ("r1", "i3"), ("r1", "i2"), ("r1", "i4"), ("r2", "i2"), ("r4", "i1")]
    pl.DataFrame(
        [(*click, "click") for click in clicks], schema=["request_id", "item_id", "event_type"], orient="row"
    ).write_parquet(folder / "outcomes.parquet")
    return folder


def test_clicks_are_credited_to_the_team_that_put_the_item_there(tmp_path: Path) -> None:
    credit = read_teams(marts(tmp_path), "x", "both")
    assert sorted(credit.select("unit", "a", "b").rows()) == [("user:ann", 2, 1), ("user:bob", 0, 1)]
    found = preference(credit["a"], credit["b"])
    assert (found.first, found.second, found.ties) == (1, 1, 0)


def test_an_arm_that_interleaves_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="arm 'other' of experiment 'x' has no interleaved answers"):
        read_teams(marts(tmp_path), "x", "other")
    with pytest.raises(UserError, match="run `recsys tables` first"):
        read_teams(tmp_path / "nothing", "x", "both")
