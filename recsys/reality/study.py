"""The set-up of the case study: its month, its arms, the bundles that serve them, and the service under a simulated clock.

The phases are fitted on what lies before the test month; the simulator's shoppers want what the same households really bought in it
(docs/simulator.md). `recsys.reality.months` simulates it, `recsys.reality.outcome` reads it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Final, Literal

import polars as pl
from prometheus_client import CollectorRegistry
from rich.console import Console
from starlette.types import ASGIApp

from recsys.dataset import load_dataset, parse_day
from recsys.errors import UserError
from recsys.experiments.plan import Experiment
from recsys.experiments.reading import read_plan
from recsys.pack import write_bundle
from recsys.phase1 import Workshop
from recsys.phases import PHASES
from recsys.publish import publish, publish_beside, served_phases
from recsys.simulation.shops import SimulatedClock
from recsys.simulation.world import World
from recsys.store.database import database_url, opened
from recsys.store.migrate import upgrade
from service.main import wire
from service.metrics import Metrics
from service.settings import Settings

CUT: Final = "2017-12-01"
UNTIL: Final = "2018-01-01"
EXPERIMENT: Final = "case-study"
SHARES: Final[Mapping[str, float]] = {
    "random": 0.3,
    "random_again": 0.12,
    "random_plus5": 0.12,
    "popularity": 0.1,
    "phase1": 0.12,
    "phase2": 0.12,
    "phase3": 0.12,
}
"""Of the units. What every lift is measured against gets most: of k arms with r times its CTR each, the root of k * r times as much as one is best."""
ADDED: Final[Mapping[str, float]] = {"random_plus5": 1.05}
"""Whose items shoppers click so many times as often, on purpose: an effect that the experiment has to find."""
Unit = Literal["user", "session"]
"""What is assigned to an arm. Users tire of what their own arm shows them, as all would if it were shown to all; of visits that are
assigned one by one, each pays for what the others have shown. Anonymous visits are units of their own either way."""
Configurations = Mapping[str, Mapping[str, object]]
"""What an experiment's file says of each arm, by its name."""
METRICS: Final = ("ctr", "conversion", "revenue_per_unit", "total_revenue_per_unit")
CAMPAIGN_SHARES: Final[Mapping[str, float]] = {"random": 0.55, "phase1": 0.15, "phase2": 0.15, "phase3": 0.15}
_ON_DEFAULT_DATA: Final = "the study is of the default data, which `recsys ingest` without a mapping fetches"
CAMPAIGN_ITEMS: Final = 34
"""At most: as many as the smallest campaign of the Open Bandit logs has. Random items of a whole catalogue tell nothing of other policies."""


def read_world(data: Path) -> World:
    """The month of the study, from the tables below `data`.

    Raises:
        UserError: there are no tables, or they have no purchases in that month, or none of the weeks before it.
    """
    for name in ("raw", "tables/interactions.parquet", "tables/items.parquet"):
        if not (data / name).exists():
            raise UserError(f"{data / name} is missing: run `recsys ingest` and `recsys tables` first")
    try:
        world = World.read(data / "tables", CUT, UNTIL)
    except ValueError as error:
        raise UserError(f"{data} has no purchases from {CUT} to before {UNTIL}: {_ON_DEFAULT_DATA}") from error
    if not world.items.sold_before.any():
        raise UserError(f"{data} has no purchases in the four weeks before {CUT} to learn from: {_ON_DEFAULT_DATA}")
    return world


def fit_bundles(folder: Path, tables: Path, console: Console) -> None:
    """The three phases with their defaults, fitted on what lies before the cut, where they are not there yet; phase 3 is live, the others
    serve beside it."""
    bundles, at = folder / "bundles", parse_day(CUT)
    if bundles.exists() and len(served_phases(bundles)) == len(PHASES):
        console.print(f"bundles of every phase are in {bundles} and are used again")
        return
    learnt = load_dataset(tables).before(at)
    workshop = Workshop(learnt, at, 0)
    for phase, plan in PHASES.items():
        with console.status(f"fitting phase {phase} before {CUT}"):
            surfaces, popularity = plan.build_surfaces(workshop, plan.DEFAULT)
            known = {"since": 0, "until": at, "fingerprint": "", "log_until": 0, "catalogue_bytes": 0}
            bundle = write_bundle(
                bundles,
                phase=phase,
                surfaces=surfaces,
                popularity=popularity,
                dataset=learnt,
                at=at,
                metadata={"currency": "USD", "data": known},
            )
        (publish if phase == max(PHASES) else publish_beside)(bundles, bundle.name)
        console.print(f"phase {phase} is fitted: {bundle.name}")


def phase_arms(shares: Mapping[str, float]) -> Configurations:
    """An arm's name begins with what it answers with, up to an underscore."""
    return {name: {"share": share, "phase": name.partition("_")[0]} for name, share in shares.items()}


def write_plan(
    path: Path,
    arms: Configurations,
    start: date,
    stop: date,
    *,
    unit: Unit = "user",
    salt: str = EXPERIMENT,
    control: str = "random",
) -> Experiment:
    """Every unit is in one of the arms; another `salt` assigns them anew."""
    tables = "\n".join(
        f"    {{ {', '.join(f'{key} = {_toml(value)}' for key, value in {'name': name, **given}.items())} }},"
        for name, given in arms.items()
    )
    path.write_text(
        f'[layers.ranking]\nunit = "{unit}"\n\n'
        f'[[experiments]]\nname = "{EXPERIMENT}"\nsalt = "{salt}"\nlayer = "ranking"\ncontrol = "{control}"\n'
        f"start = {start}\nstop = {stop}\nmetrics = {list(METRICS)}\narms = [\n{tables}\n]\n"
    )
    (experiment,) = read_plan(path).experiments
    return experiment


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def service(folder: Path, redis_url: str, clock: SimulatedClock) -> ASGIApp:
    """The service below `folder` under a simulated clock, with the experiments of its `experiments.toml`."""
    plan = folder / "experiments.toml"
    # Between two requests the loop stands still: that is no queue that should make answers cheaper.
    settings = Settings(
        data_dir=folder,
        redis_url=redis_url,
        redis_timeout_ms=1_000,
        deadline_ms=60_000,
        queue_ms=60_000,
        experiments=plan,
        rules=None,
        database_url=None,
    )
    with opened(database_url(folder)) as engine:
        upgrade(engine)
    return wire(settings, Metrics(settings.shop, CollectorRegistry()), clock)


def campaign_category(world: World, tables: Path) -> str:
    """The category whose items sold most before the cut, of those with at most `CAMPAIGN_ITEMS` that can be shown.

    Raises:
        UserError: there is none.
    """
    items = pl.read_parquet(tables / "items.parquet", columns=["item_id", "category"]).sort("item_id")
    sold = items.with_columns(sold=world.items.sold_before, available=world.items.available)
    sums = sold.drop_nulls("category").group_by("category").agg(pl.col("sold", "available").sum())
    fit = sums.filter(pl.col("available") <= CAMPAIGN_ITEMS, pl.col("available") >= CAMPAIGN_ITEMS // 2)
    if fit.is_empty():
        raise UserError(
            f"no category has {CAMPAIGN_ITEMS // 2} to {CAMPAIGN_ITEMS} items: there is nothing for a campaign"
        )
    return str(fit.sort("sold", "category", descending=[True, False])["category"][0])
