"""The log of random answers, as an off-policy estimate reads it: what was seen, with what chance, and whether it was clicked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import UserError
from recsys.experiments.offpolicy import Log, Target
from recsys.tables import EXPOSURES, OUTCOMES


def read_random_log(tables: Path) -> pl.DataFrame:
    """request_id, position, item_id, propensity, unit, clicked: one row for each item seen that chance put there.

    Raises:
        UserError: the marts are missing, or no random answer was seen yet.
    """
    for name in (EXPOSURES.name, OUTCOMES.name):
        if not (tables / f"{name}.parquet").exists():
            raise UserError(f"{tables / name}.parquet is missing: run `recsys tables` first")
    seen = pl.scan_parquet(tables / f"{EXPOSURES.name}.parquet").filter(
        "is_seen", ~pl.col("degraded"), pl.col("propensity") < 1.0
    )
    clicks = (
        pl.scan_parquet(tables / f"{OUTCOMES.name}.parquet")
        .filter(event_type="click")
        .select("request_id", "item_id", clicked=1.0)
        .unique()
    )
    log = (
        seen.join(clicks, on=["request_id", "item_id"], how="left")
        .select(
            "request_id",
            "position",
            "item_id",
            "propensity",
            pl.coalesce("user_id", "session_id", "request_id").alias("unit"),
            pl.col("clicked").fill_null(0.0),
        )
        .sort("request_id", "position")
        .collect()
    )
    if not len(log):
        raise UserError(
            'the log holds no random answers that a shopper saw: give an arm with phase = "random", or [exploration] random '
            "(docs/experiments.md), and confirm renders (docs/api.md)"
        )
    return log


def as_log(frame: pl.DataFrame) -> Log:
    """The frame of `read_random_log` as arrays; items are numbered in the order of their ids, positions from 0."""
    return Log(
        item=_numbers(frame["item_id"]),
        position=frame["position"].to_numpy() - 1,
        reward=frame["clicked"].to_numpy(),
        propensity=frame["propensity"].to_numpy(),
        unit=_numbers(frame["unit"]),
    )


def answered(frame: pl.DataFrame, *answers: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """The rows of requests that all of `answers` have: of a request that could not be asked again nothing is known, which is not that it
    would have been answered with other items.

    Raises:
        UserError: none is left.
    """
    known = set(frame["request_id"]).intersection(*answers)
    if not known:
        raise UserError(
            "none of the random answers of the log can be asked again: their questions are not in the database"
        )
    return frame.filter(pl.col("request_id").is_in(list(known)))


def as_target(frame: pl.DataFrame, answers: Mapping[str, Sequence[str]]) -> Target:
    """The policy that gives `answers`, item ids by request, at the rows of the log: it shows the logged item there, or it does not."""
    pairs = zip(frame["request_id"], frame["position"], frame["item_id"], strict=True)
    same = [
        position <= len(answer := answers.get(request_id, ())) and answer[position - 1] == item_id
        for request_id, position, item_id in pairs
    ]
    return Target(np.array(same, dtype=np.float64))


def _numbers(ids: pl.Series) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return ids.rank("dense").to_numpy().astype(np.int64) - 1
