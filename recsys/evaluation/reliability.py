"""Whether a probability means what it says: of what was shown with a chance of a tenth, a tenth should be bought."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from recsys.evaluation.questions import Questions, observe
from recsys.events import Surface
from recsys.ranking import Mask, Model

EDGES: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the bins of chances."""
NAMES: Final = tuple(f"{low:g}-{high:g}" for low, high in pairwise(EDGES))
RELIABILITY_SCHEMA: Final = {
    "surface": pl.String,
    "chance": pl.String,
    "claimed": pl.Float64,
    "bought": pl.Float64,
    "n": pl.Int64,
}


def measure(surfaces: Mapping[Surface, Model], asked: Questions, available: Mask) -> pl.DataFrame:
    """`reliability` of every surface that claims anything, under each other, with the column `surface` before."""
    parts = [
        reliability(observe(model, asked[surface], available)).select(pl.lit(str(surface)).alias("surface"), pl.all())
        for surface, model in surfaces.items()
    ]
    return pl.concat([pl.DataFrame(schema=RELIABILITY_SCHEMA), *parts])


def reliability(observed: pl.DataFrame) -> pl.DataFrame:
    """Bins that hold anything, by chance, of a frame of `recsys.evaluation.questions.observe`.

    Columns: `chance` (name of the bin), `claimed` (mean chance), `bought` (share that came true), `n` (items shown). Items
    without a chance are left out.
    """
    claimed = observed.filter(pl.col("chance").is_not_nan())
    bins = np.clip(np.searchsorted(EDGES, claimed["chance"].to_numpy(), side="right") - 1, 0, len(NAMES) - 1)
    return (
        claimed.with_columns(pl.Series("bin", bins, dtype=pl.Int64))
        .group_by("bin")
        .agg(claimed=pl.col("chance").cast(pl.Float64).mean(), bought=pl.col("hit").mean(), n=pl.len().cast(pl.Int64))
        .sort("bin")
        .select(
            pl.col("bin").replace_strict(dict(enumerate(NAMES)), return_dtype=pl.String).alias("chance"),
            "claimed",
            "bought",
            "n",
        )
    )


def expected_error(bins: pl.DataFrame) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015): mean distance of claimed from bought, over shown items; 0 without any."""
    distance = ((bins["claimed"] - bins["bought"]).abs() * bins["n"]).sum()
    return float(distance) / max(1, int(bins["n"].sum()))


def errors(frame: pl.DataFrame) -> pl.DataFrame:
    """Of a frame of `measure`: `surface`, `ece` and `n` (items shown), in the frame's order."""
    parts = frame.partition_by("surface", maintain_order=True)
    rows = [(part["surface"][0], expected_error(part), int(part["n"].sum())) for part in parts]
    return pl.DataFrame(rows, schema={"surface": pl.String, "ece": pl.Float64, "n": pl.Int64}, orient="row")
