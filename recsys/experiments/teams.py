"""The log of interleaved answers: which of two bundles each shopper's clicks speak for."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.errors import UserError
from recsys.tables import ASSIGNMENTS, EXPOSURES, OUTCOMES


def read_teams(tables: Path, experiment: str, arm: str) -> pl.DataFrame:
    """unit, and a column for each of the two bundles by its version: clicks on the items that it alone put there.

    Answers count that a shopper saw and that were not degraded.

    Raises:
        UserError: the marts are missing, or no interleaved answer of the arm was seen yet.
    """
    for table in (ASSIGNMENTS, EXPOSURES, OUTCOMES):
        if not (tables / f"{table.name}.parquet").exists():
            raise UserError(f"{tables / table.name}.parquet is missing: run `recsys tables` first")
    placed = pl.scan_parquet(tables / f"{ASSIGNMENTS.name}.parquet").filter(experiment=experiment, arm=arm)
    seen = pl.scan_parquet(tables / f"{EXPOSURES.name}.parquet").filter("is_seen", ~pl.col("degraded"))
    clicked = (
        pl.scan_parquet(tables / f"{OUTCOMES.name}.parquet")
        .filter(event_type="click")
        .select("request_id", "item_id", clicks=1)
        .unique()
    )
    found = (
        seen.filter(pl.col("team").is_not_null())
        .join(placed.select("request_id", "unit"), on="request_id")
        .join(clicked, on=["request_id", "item_id"], how="left")
        .select("unit", "team", pl.col("clicks").fill_null(0))
        .collect()
    )
    if found["team"].n_unique() != 2:
        raise UserError(
            f"arm {arm!r} of experiment {experiment!r} has no interleaved answers of two bundles that a shopper saw: give it "
            "`phase` and `against` (docs/experiments.md), and confirm renders (docs/api.md)"
        )
    return found.pivot("team", index="unit", values="clicks", aggregate_function="sum", sort_columns=True).fill_null(0)
