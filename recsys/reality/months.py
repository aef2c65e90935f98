"""Simulated months: each in a process of its own, with its own Redis, database and tables, over the same bundles.

A month is simulated again with another seed, not made busier: a household that came three times as often would tire three times as fast.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from rich.console import Console

from pipelines.ingest import ingest_log
from pipelines.run import build_tables
from recsys.experiments.offpolicy import Log as RandomLog
from recsys.experiments.offpolicy import Target, Trust, evaluate
from recsys.experiments.random_log import answered, as_log, as_target, read_random_log
from recsys.publish import served_phases
from recsys.reality.processes import Track, side_by_side
from recsys.reality.study import ADDED, EXPERIMENT, Unit, phase_arms, service, write_plan
from recsys.simulation.clicks import ClickModel
from recsys.simulation.constants import Constants
from recsys.simulation.log import Log
from recsys.simulation.loop import Simulation
from recsys.simulation.shops import AsgiShop, SimulatedClock
from recsys.simulation.traffic import Visits, plan_visits
from recsys.simulation.truth import moved
from recsys.simulation.world import World
from recsys.store.database import database_url, opened
from service.counterfactual import would_answer
from service.embedded_redis import embedded_redis
from service.replay import open_live

GRID: Final = {
    "taste_share": tuple(np.linspace(0.0, 0.2, 21).round(3).tolist()),
    "position_effect": (0.0, 0.074, 0.148, 0.257, 0.366),
    "curiosity": (0.0, 0.1, 0.2, 0.3),
    "fatigue": (0.8, 0.85, 0.9, 0.95, 1.0),
    "price_effect": (0.0, 0.1, 0.3, 0.5),
    "novelty": (1.0, 1.1, 1.25, 1.5),
}
"""Values of the assumptions over which the lifts are followed; docs/simulator.md says which are plausible."""


WHO: Final = (
    pl.when("anonymous").then(pl.lit("anonymous")).when("new_shopper").then(pl.lit("new")).otherwise(pl.lit("known"))
)
"""Of a row of `recsys.simulation.log.PAGES`."""


@dataclass(frozen=True, slots=True)
class Order:
    """A month to simulate."""

    folder: Path
    """Its own, to be made."""
    bundles: Path
    data: Path
    """Where `recsys tables` has written."""
    days: tuple[str, str]
    """From and until before (`YYYY-MM-DD`)."""
    shares: Mapping[str, float]
    """Of the arms."""
    constants: Constants
    seed: int
    visits_share: float = 1.0
    """Of the shoppers, with all of their visits."""
    category: str | None = None
    """Only items of this one are shown: a campaign."""
    asked_again: int = 500
    """Random answers, at most, for which each phase is asked what it would have shown."""
    unit: Unit = "user"
    keep: bool = False
    """The folder stays."""

    def times(self, n: int) -> list[Order]:
        """The same n times, each with a seed and a folder of its own."""
        return [
            replace(self, folder=self.folder.with_name(f"{self.folder.name}-{number}"), seed=self.seed + number)
            for number in range(n)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the random arm's log says of another policy, and what that one got itself: rows of months, one after the other."""

    log: RandomLog
    target: Target
    clicks: float
    """Of the policy's own arm, by its log."""
    exposures: float
    expected_clicks: float
    """Of the same arm's answers, by the simulator."""
    shown: float

    @classmethod
    def together(cls, parts: Sequence[Evidence]) -> Evidence:
        """Of several months, whose items and units are different ones."""
        logs = [part.log for part in parts]
        units = np.cumsum([0, *(int(log.unit.max()) + 1 for log in logs[:-1])])
        log = RandomLog(
            item=np.concatenate([log.item for log in logs]),
            position=np.concatenate([log.position for log in logs]),
            reward=np.concatenate([log.reward for log in logs]),
            propensity=np.concatenate([log.propensity for log in logs]),
            unit=np.concatenate([log.unit + first for log, first in zip(logs, units.tolist(), strict=True)]),
        )
        target = Target(np.concatenate([part.target.probability for part in parts]))
        names = ("clicks", "exposures", "expected_clicks", "shown")
        return cls(log, target, *(sum(getattr(part, name) for part in parts) for name in names))

    def estimated(self) -> Estimated:
        """The off-policy estimate."""
        found = evaluate(self.log, self.target)
        one, overlap = found.estimates["snips"], found.overlap
        online, true = self.clicks / self.exposures, self.expected_clicks / self.shown
        return Estimated(one.value, one.low, one.high, online, true, overlap.trust, overlap.reasons, one.n)


@dataclass(frozen=True, slots=True)
class Estimated:
    """A policy's CTR off-policy with its interval, and on-line."""

    value: float
    low: float
    high: float
    online: float
    true: float
    """What the simulator expected of the policy's own arm."""
    trust: Trust
    reasons: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Month:
    """What came of one."""

    units: pl.DataFrame
    """The mart `experiment_units`, with `who` visited: known, new or anonymous."""
    expected: pl.DataFrame
    """The same columns unit, arm, exposures and clicks, with what the simulator expected."""
    new_items: pl.DataFrame
    """Those of items first met after the cut only, by the service's log."""
    pages: pl.DataFrame
    """`recsys.simulation.log.PAGES`; no two months have a visit of the same number."""
    moved: pl.DataFrame
    """See `recsys.simulation.truth.moved`, over `GRID`."""
    policies: Mapping[str, Evidence]
    """By phase; empty where there was no random arm."""


def simulate_months(orders: Sequence[Order], visits: int, console: Console) -> list[Month]:
    """The months in the order asked, with one bar for all of them; they have so many visits together."""
    return side_by_side(simulate_month, orders, visits, console)


def simulate_month(order: Order, track: Track) -> Month:
    """One."""
    world = World.read(order.data / "tables", *order.days)
    traffic = order.constants.traffic
    visits = plan_visits(world, traffic, order.constants.mess, order.seed).of_some(order.visits_share)
    with prepared(order):
        with embedded_redis(order.folder / "redis") as url:
            log = simulate(order.folder, url, world, visits, order.constants, order.category, track)
        return read_month(order, world, log)


@contextmanager
def prepared(order: Order) -> Iterator[None]:
    """The month's folder."""
    new_shop(order.folder, order.bundles, order.data)
    days, salt = map(date.fromisoformat, order.days), f"{EXPERIMENT}-{order.seed}"
    write_plan(order.folder / "experiments.toml", phase_arms(order.shares), *days, unit=order.unit, salt=salt)
    yield
    if not order.keep:
        shutil.rmtree(order.folder)


def new_shop(folder: Path, bundles: Path, data: Path) -> None:
    """A shop below `folder` that has the catalogue, the users, the bundles and no past but what the bundles know."""
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    folder.mkdir(parents=True)
    (folder / "bundles").symlink_to(bundles.resolve(), target_is_directory=True)
    copy_raw(data, folder)


def copy_raw(data: Path, folder: Path, until: str | None = None) -> None:
    """The shop's raw files, with its events before the day `until` (`YYYY-MM-DD`), or without any."""
    (folder / "raw").mkdir()
    for path in (data / "raw").iterdir():
        if not path.name.endswith(".events.parquet"):
            shutil.copy(path, folder / "raw")
        elif until is not None:
            before = pl.col("occurred_at") < datetime.fromisoformat(until)
            pl.scan_parquet(path).filter(before).sink_parquet(folder / "raw" / path.name)


def simulate(
    folder: Path,
    redis_url: str,
    world: World,
    visits: Visits,
    constants: Constants,
    category: str | None = None,
    track: Track = iter,
) -> Log:
    """The visits to the service below `folder`."""
    clock = SimulatedClock(float(world.cut))
    filters = {} if category is None else {"category": category}
    with AsgiShop(service(folder, redis_url, clock), clock) as shop:
        model = ClickModel.of(world, constants)
        return Simulation(model, constants, visits, shop, more_clicks=ADDED, filters=filters).run(track)


def read_month(order: Order, world: World, log: Log) -> Month:
    """What the service logged, by the same tables as a shop's, and what was true."""
    quiet = Console(quiet=True)
    ingest_log(database_url(order.folder), order.folder, quiet)
    end = datetime.fromtimestamp(world.until, UTC)
    build_tables(order.folder, quiet, as_of=end + timedelta(days=1))
    tables = order.folder / "tables"
    people = with_units(order, world, log.pages.filter(~pl.col("bot"))).with_columns(pl.col("label").alias("arm"))
    whose = people.group_by("unit").agg(WHO.first().alias("who"))
    units = pl.read_parquet(tables / "experiment_units.parquet").filter(experiment=EXPERIMENT)
    expected = people.group_by("unit", "arm").agg(
        pl.col("shown").sum().alias("exposures"), pl.col("expected_clicks").sum().alias("clicks")
    )
    of_the_month = pl.format("{}/{}", pl.lit(order.seed), "unit").alias("unit")  # in another one it is assigned anew
    return Month(
        units=units.join(whose, on="unit", how="left").with_columns(of_the_month, pl.col("who").fill_null("bots")),
        expected=expected.with_columns(of_the_month),
        new_items=_of_new_items(tables, units, world).with_columns(of_the_month),
        pages=log.pages.with_columns(pl.col("visit") + order.seed * 10**9),
        moved=moved(world, order.constants, log, GRID),
        policies=_policies(order, units, expected),
    )


def with_units(order: Order, world: World, pages: pl.DataFrame) -> pl.DataFrame:
    """`recsys.simulation.log.PAGES` with `unit`: by what the service assigned them."""
    session = pl.concat_str(pl.lit(f"session:sim-{order.seed}-"), pl.col("visit"))
    if order.unit == "session":
        return pages.with_columns(session.alias("unit"))
    ids = [None if user_id is None else f"user:{user_id}" for user_id in world.shopper_ids]
    users = pl.DataFrame({"user": ids}, {"user": pl.String}).with_row_index("shopper").cast({"shopper": pl.Int64})
    known = pl.when(~pl.col("anonymous")).then("user")
    found = pages.join(users, on="shopper", how="left", maintain_order="left")
    return found.with_columns(pl.coalesce(known, session).alias("unit")).drop("user")


def _of_new_items(tables: Path, units: pl.DataFrame, world: World) -> pl.DataFrame:
    """unit, arm, exposures and clicks of items first met after the cut, as the service logged them."""
    listed = world.items.listed_second
    new = pl.Series("item_id", world.items.ids).filter(pl.Series((listed >= world.cut) & (listed < world.until)))
    seen = pl.read_parquet(tables / "exposures.parquet").filter("is_seen", ~pl.col("degraded"))
    clicks = (
        pl.read_parquet(tables / "outcomes.parquet")
        .filter(event_type="click")
        .group_by("request_id", "item_id")
        .agg(pl.len().cast(pl.Float64).alias("clicks"))
    )
    return (
        seen.filter(pl.col("item_id").is_in(new.to_list()))
        .join(pl.read_parquet(tables / "assignments.parquet").filter(experiment=EXPERIMENT), on="request_id")
        .join(units.select("unit", "arm"), on=["unit", "arm"])
        .join(clicks, on=["request_id", "item_id"], how="left")
        .group_by("unit", "arm")
        .agg(pl.len().cast(pl.Float64).alias("exposures"), pl.col("clicks").fill_null(0.0).sum())
    )


def _policies(order: Order, units: pl.DataFrame, expected: pl.DataFrame) -> dict[str, Evidence]:
    """Of each phase that has an arm: what the random arm's answers, some of them, say of it."""
    tables, phases = order.folder / "tables", served_phases(order.bundles)
    frame = read_random_log(tables)
    arms = pl.read_parquet(tables / "assignments.parquet").filter(experiment=EXPERIMENT, arm="random")
    frame = frame.filter(pl.col("request_id").is_in(arms["request_id"].to_list()))
    asked = frame["request_id"].unique(maintain_order=True).sample(fraction=1.0, shuffle=True, seed=order.seed)
    frame = frame.filter(pl.col("request_id").is_in(asked.head(order.asked_again).to_list()))
    found = {}
    with opened(database_url(order.folder)) as engine:
        for phase, version in phases.items():
            own = units.filter(arm=f"phase{phase}")
            if own.is_empty():
                continue
            answers = would_answer(engine, open_live(order.folder, version), set(frame["request_id"]))
            kept = answered(frame, answers)
            sums = [
                float(sums_of[column].fill_null(0).sum())
                for sums_of in (own, expected.filter(arm=f"phase{phase}"))
                for column in ("clicks", "exposures")
            ]
            found[f"phase{phase}"] = Evidence(as_log(kept), as_target(kept, answers), *sums)
    return found
