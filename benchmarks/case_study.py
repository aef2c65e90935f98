"""The case study, closed loop: five arms in the real service, simulated shoppers whose truth is known, read out from what was logged.

`make case-study` (`python -m benchmarks.case_study`). The phases are fitted on what lies before the test month; the simulator's shoppers want what the
same households really bought in it (docs/simulator.md). The service runs in this process, with its Redis and its database, under a simulated
clock; `recsys tables` reads its log, and the readout is the one that `recsys report` prints. Beside each estimate stands what the
simulator, which knows every chance, expects.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import polars as pl
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import track

from benchmarks.strict_cold import show
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
from recsys.reports import Cell, Table, interval, write_report
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
CLAIMS: Final = {"phase1": 0.23, "phase2": 0.41, "phase3": 0.47}
"""CTR against random, of the case study."""
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


def lift(readout: Readout, arm: str, metric: str = "ctr") -> tuple[float, float, float] | None:
    """Relative difference with its interval; None without data."""
    rows = readout.lifts.filter(arm=arm, metric=metric, status="ok")
    if not len(rows) or rows["relative"][0] is None:
        return None
    return rows["relative"][0], rows["relative_low"][0], rows["relative_high"][0]


def _percent(found: tuple[float, float, float] | None) -> str:
    return "–" if found is None else interval(*(100 * value for value in found), digits=1)


def lifts_table(outcome: Outcome) -> Table:
    """Every arm against random, beside the claim and the truth."""
    true = outcome.truth["all"]
    rows: list[list[Cell]] = []
    for arm in ARMS:
        estimate = lift(outcome.readout, arm)
        expected = true[arm].ctr / true["random"].ctr - 1
        claim = CLAIMS.get(arm)
        met: Cell = "" if claim is None or estimate is None else estimate[1] > claim
        covers: Cell = "" if estimate is None else estimate[1] <= expected <= estimate[2]
        rows.append(
            [
                arm,
                outcome.readout.units[arm],
                f"{100 * true[arm].ctr:.3f}",
                _percent(estimate),
                f"{100 * expected:.1f}",
                covers,
                "" if claim is None else f"+{claim:.0%}",
                met,
                *(_percent(lift(outcome.readout, arm, metric)) for metric in METRICS[1:]),
            ]
        )
    columns = [
        "arm",
        "visits",
        "true CTR %",
        "CTR lift % [95%]",
        "true lift %",
        "interval holds it",
        "claim",
        "lower bound above it",
    ]
    note = (
        "Lifts over random items, one look at the end. The true figures are the simulator's expectations for the answers that were really "
        "given. Conversion: orders that follow from a seen item, per exposure; revenue of a visit: attributed, and all of it."
    )
    names = ["conversion lift %", "attributed revenue lift %", "all revenue lift %"]
    return Table("Five arms, and random twice", [*columns, *names], rows, note)


def steps_table(outcome: Outcome) -> Table:
    """Each phase against the one before."""
    rows: list[list[Cell]] = []
    true = outcome.truth["all"]
    for arm, control in STEPS:
        found = lift(outcome.against[control], arm)
        expected = true[arm].ctr / true[control].ctr - 1
        rows.append(
            [f"{arm} over {control}", _percent(found), f"{100 * expected:.1f}", "" if found is None else found[1] > 0]
        )
    return Table("Each phase over the one before", ["", "CTR lift % [95%]", "true lift %", "surely above 0"], rows)


def slices_table(outcome: Outcome) -> Table:
    """The true lifts by who visits, and of new items."""
    rows: list[list[Cell]] = []
    for arm in ARMS[2:]:
        row: list[Cell] = [arm]
        for found in outcome.truth.values():
            both = found.get(arm), found.get("random")
            row.append("–" if None in both or not both[1].ctr else f"{100 * (both[0].ctr / both[1].ctr - 1):.1f}")  # type: ignore[union-attr]
        mine, base = outcome.truth["all"][arm].new_item_ctr, outcome.truth["all"]["random"].new_item_ctr
        row.append(f"{100 * (mine / base - 1):.1f}" if base and mine == mine else "–")
        rows.append(row)
    columns = ["arm", *(f"{name}, lift %" for name in outcome.truth), "new items, lift %"]
    return Table("True CTR lifts over random, by who visits", columns, rows)


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


def main() -> None:
    """Run, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where `recsys tables` has written")
    parser.add_argument("--keep", type=Path, help="keep bundles, log and tables in this folder")
    parser.add_argument("--browsing", type=float, help="visits without a purchase for each with one")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    console = Console()
    constants = Constants.read()
    if given.browsing is not None:
        constants = replace(constants, traffic=replace(constants.traffic, browsing_visits=given.browsing))
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run(given.data, folder, constants, given.seed, console)
    tables = [lifts_table(outcome), steps_table(outcome), slices_table(outcome)]
    for table in tables:
        show(table, console)
    if outcome.readout.reason:
        console.print(f"[red]no readout:[/red] {outcome.readout.reason}")
    console.print(f"written: {write_report('case_study', 'make case-study', tables)}")


if __name__ == "__main__":
    main()
