"""Questions 1 and 2: the ensemble with its accuracy taken away, and what needs no learning, as arms of one experiment in the real service.

What an arm earns is known twice: from the service's log, as a shop would, and from the simulator, which knows every chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from rich.console import Console

from pipelines.ingest import ingest_log
from pipelines.run import build_tables
from recsys.compose import Fallback
from recsys.dataset import Dataset
from recsys.events import Surface
from recsys.experiments.analysis import Readout, read_out
from recsys.experiments.reading import read_plan
from recsys.experiments.roi import Figure
from recsys.models.fit.frequency import FrequencyRecommender
from recsys.models.fit.popularity import CategoryPopularityRecommender, PopularityRecommender
from recsys.pack import write_bundle
from recsys.phase1 import Workshop
from recsys.ranking import Model
from recsys.reality.accuracy import Degradation
from recsys.reality.study import Configurations
from recsys.simulation.log import Log
from recsys.simulation.world import Floats
from recsys.store.database import database_url

RANDOM: Final = "random"
POPULARITY: Final = "popularity"
ENSEMBLE: Final = "ensemble"
FREQUENCY: Final = "own_frequency"
RULES: Final = "rules"
BOTH: Final = "frequency_and_rules"
SIMPLE: Final = (POPULARITY, FREQUENCY, RULES, BOTH)
"""What needs no learning, in words: the bestsellers; what the shopper bought most; the bestsellers of the category of the page, the cart or the last
item; and the second on the home page with the third elsewhere. Bestsellers fill each up."""
Z: Final = 1.959964
"""Standard errors to each side of a 95% interval."""


def degraded_arm(degradation: Degradation) -> str:
    """The name of an arm."""
    return f"{ENSEMBLE}_{degradation.target:.0%}".rstrip("%")


def simple_surfaces(workshop: Workshop) -> tuple[dict[str, dict[Surface, Model]], Model]:
    """Every surface's model for each arm of `SIMPLE` but popularity, and popularity."""
    popularity = workshop.fit(PopularityRecommender())
    own = Fallback((workshop.fit(FrequencyRecommender()), popularity), FREQUENCY)
    rules = Fallback((workshop.fit(CategoryPopularityRecommender()), popularity), RULES)
    return {
        FREQUENCY: dict.fromkeys(Surface, own),
        RULES: dict.fromkeys(Surface, rules),
        BOTH: {surface: own if surface is Surface.HOME else rules for surface in Surface},
    }, popularity


def write_simple_bundles(bundles: Path, past: Dataset, at: int) -> dict[str, str]:
    """The version of each arm's bundle, fitted on what lies before `at`."""
    surfaces, popularity = simple_surfaces(Workshop(past, at, 0))
    known = {"since": 0, "until": at, "fingerprint": "", "log_until": 0, "catalogue_bytes": 0}
    return {
        name: write_bundle(
            bundles,
            phase=1,
            surfaces=models,
            popularity=popularity,
            dataset=past,
            at=at,
            metadata={"currency": "USD", "data": known},
        ).name
        for name, models in surfaces.items()
    }


def configurations(
    ensemble: str, degradations: Sequence[Degradation], simple: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """What each arm answers with; `ensemble` is a bundle's version, as are the values of `simple`."""
    return {
        RANDOM: {"phase": RANDOM},
        POPULARITY: {"phase": POPULARITY},
        **{name: {"phase": version} for name, version in simple.items()},
        **{degraded_arm(one): {"phase": ensemble, "degrade": round(one.share, 6)} for one in reversed(degradations)},
        ENSEMBLE: {"phase": ensemble},
    }


def equally(arms: Configurations) -> Configurations:
    """The same with equal shares, in ten-thousandths, the last one's what is left."""
    share = round(1 / len(arms), 4)
    shares = [share] * (len(arms) - 1) + [round(1 - share * (len(arms) - 1), 4)]
    return {name: {"share": part, **given} for (name, given), part in zip(arms.items(), shares, strict=True)}


def read_log(folder: Path, console: Console) -> Readout:
    """What the report reads from the service's log below `folder`: every arm against the random one."""
    (experiment,) = read_plan(folder / "experiments.toml").experiments
    assert experiment.stop is not None
    ingest_log(database_url(folder), folder, console)
    build_tables(folder, console, as_of=experiment.stop + timedelta(days=1))
    return read_out(experiment, pl.read_parquet(folder / "tables" / "experiment_units.parquet"))


@dataclass(frozen=True, slots=True)
class Sums:
    """One arm's visits: arrays `(n,)`."""

    pages: Floats
    shown: Floats
    clicks: Floats
    """Expected."""
    cents: Floats
    """Expected, of what would not have been bought otherwise."""

    def __len__(self) -> int:
        return len(self.shown)

    @property
    def ctr(self) -> float:
        """Clicks per shown item."""
        return float(self.clicks.sum() / self.shown.sum())

    @property
    def ctr_error(self) -> float:
        """Standard error of the CTR's logarithm: the delta method on visits."""
        rest = self.clicks - self.ctr * self.shown
        return float(np.sqrt(np.mean(rest**2) / len(self)) / self.clicks.mean())

    @property
    def cents_error(self) -> float:
        """Standard error of the cents per visit."""
        return float(self.cents.std() / np.sqrt(len(self)))


def visit_sums(log: Log) -> dict[str, Sums]:
    """By arm; bots and answers of no arm are left out."""
    columns = ("shown", "expected_clicks", "expected_revenue_cents")
    frame = (
        log.pages.filter(~pl.col("bot"), pl.col("label") != "")
        .group_by("label", "visit")
        .agg(pl.len().cast(pl.Float64).alias("pages"), pl.col(*columns).sum().cast(pl.Float64))
        .sort("label", "visit")
    )
    return {
        str(label): Sums(*(part[column].to_numpy() for column in ("pages", *columns)))
        for (label,), part in frame.group_by("label", maintain_order=True)
    }


def surface_ctrs(log: Log) -> dict[str, dict[str, float]]:
    """By surface and arm, clicks per shown item that the answers get in the mean: the truth."""
    frame = (
        log.pages.filter(~pl.col("bot"), pl.col("label") != "")
        .group_by("surface", "label")
        .agg((pl.col("expected_clicks").sum() / pl.col("shown").sum()).alias("ctr"))
        .sort("surface", "label")
    )
    found: dict[str, dict[str, float]] = {}
    for surface, label, ctr in frame.iter_rows():
        found.setdefault(surface, {})[label] = ctr
    return found


@dataclass(frozen=True)
class Trial:
    """What came of the arms. Intervals are at 95%, of the visits that happened to come."""

    sums: Mapping[str, Sums]
    """By arm: the truth."""
    surfaces: Mapping[str, Mapping[str, float]]
    """See `surface_ctrs`."""
    readout: Readout
    """Every arm against the random one, as the report reads the log."""

    def ctr(self, arm: str) -> Figure:
        """Clicks per shown item that an arm's answers get in the mean: the truth."""
        return _stretched(self.sums[arm].ctr, self.sums[arm].ctr_error)

    def lift(self, arm: str, over: str = RANDOM) -> Figure:
        """Of the CTR, over that of another arm: the truth."""
        ours, theirs = self.sums[arm], self.sums[over]
        if ours is theirs:
            return Figure.of(0.0)
        return _stretched(ours.ctr / theirs.ctr, _both(ours.ctr_error, theirs.ctr_error)).scaled(1.0, -1.0)

    def incremental(self, arm: str, over: str = RANDOM) -> Figure:
        """Cents per visit of purchases that another arm would not have brought: the truth."""
        ours, theirs = self.sums[arm], self.sums[over]
        if ours is theirs:
            return Figure.of(0.0)
        value = float(ours.cents.mean() - theirs.cents.mean())
        reach = Z * _both(ours.cents_error, theirs.cents_error)
        return Figure(value, value - reach, value + reach)

    def read_lift(self, arm: str) -> Figure | None:
        """Of the CTR over random items, as the report reads it; None without data, and for random itself."""
        return self._read(arm, "ctr", "relative", "relative_low", "relative_high")

    def read_incremental(self, arm: str) -> Figure | None:
        """Cents per visit of all that was bought, above what the random arm bought, likewise."""
        return self._read(arm, "total_revenue_per_unit", "difference", "low", "high")

    def _read(self, arm: str, metric: str, *columns: str) -> Figure | None:
        rows = self.readout.lifts.filter(arm=arm, metric=metric, status="ok").select(columns).drop_nulls()
        return Figure(*rows.row(0)) if len(rows) else None

    @property
    def pages_per_visit(self) -> float:
        """Answers that a visit looks at."""
        return sum(float(one.pages.sum()) for one in self.sums.values()) / sum(map(len, self.sums.values()))


def _both(one: float, other: float) -> float:
    return float(np.hypot(one, other))


def _stretched(value: float, log_error: float) -> Figure:
    stretch = float(np.exp(Z * log_error))
    return Figure(value, value / stretch, value * stretch)
