"""Questions 1 and 2: the ensemble with its accuracy taken away, and what needs no learning, each in the real service.

What an arm earns the simulator says, which knows every chance, of a world in which it stands alone (`recsys.reality.worlds`); beside it stands
what a shop would read from the log of an experiment.
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
from scipy.stats import t

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
    """One arm's shoppers, the same in the same order as another's: arrays `(n,)`."""

    visits: Floats
    pages: Floats
    shown: Floats
    clicks: Floats
    """Expected."""
    cents: Floats
    """Expected, of what would not have been bought otherwise."""

    @property
    def n_visits(self) -> int:
        """Of all shoppers."""
        return int(self.visits.sum())

    @property
    def n_shoppers(self) -> int:
        """Who were shown anything."""
        return int((self.shown > 0).sum())

    @property
    def ctr(self) -> float:
        """Clicks per shown item."""
        return float(self.clicks.sum() / self.shown.sum())

    @property
    def log_ctr_parts(self) -> Floats:
        """`(n,)`: what each shopper adds to the error of the CTR's logarithm, by the delta method."""
        return np.asarray((self.clicks - self.ctr * self.shown) / self.clicks.sum(), dtype=np.float64)

    @property
    def cents_per_visit(self) -> float:
        """Of all shoppers."""
        return float(self.cents.sum() / self.visits.sum())

    @property
    def cents_parts(self) -> Floats:
        """`(n,)`: what each shopper adds to the error of the cents per visit, likewise."""
        return np.asarray((self.cents - self.cents_per_visit * self.visits) / self.visits.sum(), dtype=np.float64)


def shopper_sums(worlds: Mapping[str, pl.DataFrame]) -> dict[str, Sums]:
    """By arm, from the pages (`recsys.simulation.log.PAGES`) of its world."""
    columns = ("shown", "expected_clicks", "expected_revenue_cents")
    shoppers = pl.concat([pages.select("shopper") for pages in worlds.values()]).unique().sort("shopper")
    found = {}
    for arm, pages in worlds.items():
        sums = pages.group_by("shopper").agg(
            pl.col("visit").n_unique().alias("visits"), pl.len().alias("pages"), pl.col(*columns).sum()
        )
        frame = shoppers.join(sums, on="shopper", how="left", maintain_order="left").fill_null(0).cast(pl.Float64)
        found[arm] = Sums(*(frame[column].to_numpy() for column in ("visits", "pages", *columns)))
    return found


def surface_ctrs(worlds: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, float]]:
    """By surface and arm, clicks per shown item that the answers get in the mean: the truth."""
    found: dict[str, dict[str, float]] = {}
    for arm, pages in worlds.items():
        ctr = (pl.col("expected_clicks").sum() / pl.col("shown").sum()).alias("ctr")
        for surface, value in pages.group_by("surface").agg(ctr).iter_rows():
            found.setdefault(surface, {})[arm] = value
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Trial:
    """What came of the arms. Intervals are at 95%, of the shoppers who happened to come; those of two arms are the same ones."""

    sums: Mapping[str, Sums]
    """By arm: the truth, each in a world of its own."""
    surfaces: Mapping[str, Mapping[str, float]]
    """See `surface_ctrs`."""
    readout: Readout
    """Of the experiment, whose arms are some of them: against the random one, as the report reads the log."""

    def ctr(self, arm: str) -> Figure:
        """Clicks per shown item that an arm's answers get in the mean: the truth."""
        ours = self.sums[arm]
        return _stretched(ours.ctr, ours.log_ctr_parts)

    def lift(self, arm: str, over: str = RANDOM) -> Figure:
        """Of the CTR, over that of another arm: the truth."""
        ours, theirs = self.sums[arm], self.sums[over]
        return _stretched(ours.ctr / theirs.ctr, ours.log_ctr_parts - theirs.log_ctr_parts).scaled(1.0, -1.0)

    def incremental(self, arm: str, over: str = RANDOM) -> Figure:
        """Cents per visit of purchases that another arm would not have brought: the truth."""
        ours, theirs = self.sums[arm], self.sums[over]
        value = ours.cents_per_visit - theirs.cents_per_visit
        reach = _reach(ours.cents_parts - theirs.cents_parts)
        return Figure(value, value - reach, value + reach)

    def read_lift(self, arm: str) -> Figure | None:
        """Of the CTR over random items, as the report reads it; None without data, for random itself, and for what was no arm."""
        return self._read(arm, "ctr", "relative", "relative_low", "relative_high")

    def read_incremental(self, arm: str) -> Figure | None:
        """Cents per unit, a shopper's month or an anonymous visit, of all that was bought, above what the random arm bought, likewise."""
        return self._read(arm, "total_revenue_per_unit", "difference", "low", "high")

    def _read(self, arm: str, metric: str, *columns: str) -> Figure | None:
        rows = self.readout.lifts.filter(arm=arm, metric=metric, status="ok").select(columns).drop_nulls()
        return Figure(*rows.row(0)) if len(rows) else None

    @property
    def pages_per_visit(self) -> float:
        """Answers that a visit looks at."""
        return sum(float(one.pages.sum()) for one in self.sums.values()) / sum(
            float(one.visits.sum()) for one in self.sums.values()
        )


def _reach(parts: Floats) -> float:
    """To each side of the 95% interval of a sum of independent parts whose mean is 0: a few parts tell their own spread badly (Student, 1908)."""
    n = len(parts)
    return float(t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1) * np.sum(parts**2)))


def _stretched(value: float, log_parts: Floats) -> Figure:
    stretch = float(np.exp(_reach(log_parts)))
    return Figure(value, value / stretch, value * stretch)
