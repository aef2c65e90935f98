"""The case study, closed loop: five arms in the real service, simulated shoppers whose truth is known, read out from what was logged.

`recsys case-study`. The phases are fitted on what lies before the test month; the simulator's shoppers want what the
same households really bought in it (docs/simulator.md). The service runs in this process, with its Redis and its database, under a simulated
clock; `recsys tables` reads its log, and the readout is the one that `recsys report` prints. Beside each estimate stands what the
simulator, which knows every chance, expects.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import polars as pl
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import track

from pipelines.ingest import ingest_log
from pipelines.run import build_tables
from recsys.dataset import Dataset, load_dataset, parse_day
from recsys.errors import UserError
from recsys.experiments.analysis import Readout, read_out
from recsys.experiments.reading import read_plan
from recsys.pack import write_bundle
from recsys.phase1 import Workshop
from recsys.phases import PHASES
from recsys.publish import publish, publish_beside
from recsys.simulation.clicks import ClickModel
from recsys.simulation.constants import Constants
from recsys.simulation.log import Log
from recsys.simulation.loop import Simulation
from recsys.simulation.shops import AsgiShop, SimulatedClock
from recsys.simulation.traffic import plan_visits
from recsys.simulation.truth import SLICES, Expectation, expectations
from recsys.simulation.world import World
from recsys.store.database import database_url, opened
from recsys.store.migrate import upgrade
from service.embedded_redis import embedded_redis
from service.main import wire
from service.metrics import Metrics
from service.settings import Settings

CUT: Final = "2017-12-01"
UNTIL: Final = "2018-01-01"
EXPERIMENT: Final = "case-study"
ARMS: Final = ("random", "random_again", "popularity", "phase1", "phase2", "phase3")
"""Random twice: the A/A comparison."""
STEPS: Final = (("phase1", "popularity"), ("phase2", "phase1"), ("phase3", "phase2"))
METRICS: Final = ("ctr", "conversion", "revenue_per_unit", "total_revenue_per_unit")


def fit_bundles(dataset: Dataset, folder: Path, console: Console) -> None:
    """The three phases with their defaults, fitted on what lies before the cut; phase 3 is live, the others serve beside it."""
    at = parse_day(CUT)
    learnt = dataset.before(at)
    workshop = Workshop(learnt, at, 0)
    for phase, plan in PHASES.items():
        with console.status(f"fitting phase {phase} before {CUT}"):
            surfaces, popularity = plan.build_surfaces(workshop, plan.DEFAULT)
            known = {"since": 0, "until": at, "fingerprint": "", "log_until": 0, "catalogue_bytes": 0}
            bundle = write_bundle(
                folder / "bundles",
                phase=phase,
                surfaces=surfaces,
                popularity=popularity,
                dataset=learnt,
                at=at,
                metadata={"currency": "USD", "data": known},
            )
        (publish if phase == max(PHASES) else publish_beside)(folder / "bundles", bundle.name)


def write_plan(folder: Path, arms: Sequence[str], start: date, stop: date) -> Path:
    """Every visit is in one of the arms, with equal shares."""
    share = round(1 / len(arms), 4)
    shares = [share] * (len(arms) - 1) + [round(1 - share * (len(arms) - 1), 4)]
    tables = "\n".join(
        f'    {{ name = "{name}", share = {share}, phase = "{name.removesuffix("_again")}" }},'
        for name, share in zip(arms, shares, strict=True)
    )
    path = folder / "experiments.toml"
    path.write_text(
        f'[layers.ranking]\nunit = "session"\n\n[[experiments]]\nname = "{EXPERIMENT}"\nlayer = "ranking"\ncontrol = "random"\n'
        f"start = {start}\nstop = {stop}\nmetrics = {list(METRICS)}\narms = [\n{tables}\n]\n"
    )
    return path


def service(folder: Path, redis_url: str, clock: SimulatedClock) -> FastAPI:
    """The service below `folder` under a simulated clock."""
    plan = folder / "experiments.toml"
    settings = Settings(
        data_dir=folder, redis_url=redis_url, redis_timeout_ms=1_000, experiments=plan, rules=None, database_url=None
    )
    with opened(database_url(folder)) as engine:
        upgrade(engine)
    return wire(settings, Metrics(settings.shop, CollectorRegistry()), clock)


@dataclass(frozen=True)
class Outcome:
    """What the experiment says, and what is true."""

    readout: Readout
    against: dict[str, Readout]
    """The same, read against other arms than random."""
    truth: dict[str, dict[str, Expectation]]
    """By slice and arm."""


def simulate(folder: Path, redis_url: str, world: World, constants: Constants, seed: int, console: Console) -> Log:
    """The world's visits to the service below `folder`."""
    visits = plan_visits(world, constants.traffic, constants.mess, seed)
    clock = SimulatedClock(float(world.cut))
    with AsgiShop(service(folder, redis_url, clock), clock) as shop:
        model = ClickModel.of(world, constants)
        simulation = Simulation(model, constants, visits, shop)
        return simulation.run(lambda numbers: track(numbers, "visits", console=console))


def read(folder: Path, log: Log, console: Console) -> Outcome:
    """From the service's log to lifts, by the same tables and statistics as a shop's."""
    (experiment,) = read_plan(folder / "experiments.toml").experiments
    assert experiment.stop is not None
    ingest_log(database_url(folder), folder, console)
    build_tables(folder, console, as_of=experiment.stop + timedelta(days=1))
    units = pl.read_parquet(folder / "tables" / "experiment_units.parquet")
    named = {arm.name for arm in experiment.arms}
    against = {
        control: read_out(experiment.model_copy(update={"control": control}), units)
        for control in dict.fromkeys(control for _, control in STEPS)
        if control in named
    }
    truth = {name: expectations(log, where) for name, where in SLICES.items()}
    return Outcome(read_out(experiment, units), against, truth)


def run(data: Path, folder: Path, constants: Constants, seed: int, console: Console) -> Outcome:
    """All of it, below `folder`, from the tables below `data`.

    Raises:
        UserError: there are no tables.
    """
    for name in ("raw", "tables"):
        if not (data / name).exists():
            raise UserError(f"{data / name} is missing: run `recsys ingest` and `recsys tables` first")
        shutil.copytree(data / name, folder / name)
    fit_bundles(load_dataset(folder / "tables"), folder, console)
    write_plan(folder, ARMS, date.fromisoformat(CUT), date.fromisoformat(UNTIL))
    world = World.read(folder / "tables", cut=CUT, until=UNTIL)
    with embedded_redis(folder / "redis") as url:
        log = simulate(folder, url, world, constants, seed, console)
    return read(folder, log, console)
