"""Weeks in which the system learns from what it logged itself: does it improve, or collapse onto what it shows anyway?

`recsys case-study --weeks 4`. Phase 1 is fitted on what lies before the cut and serves the first week; at the end of each, `recsys tables` reads
the service's own database, phase 1 is fitted again on all that is known by then, and published. Beside it stand the same with the permanent
exploration arm, and phase 1 as it was on the first day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from rich.console import Console

from pipelines.ingest import ingest_log
from pipelines.run import build_tables
from recsys.dataset import load_dataset
from recsys.pack import write_bundle
from recsys.phase1 import Workshop
from recsys.phases import PHASES
from recsys.publish import publish
from recsys.reality.months import copy_raw
from recsys.reality.processes import Track, side_by_side
from recsys.reality.study import CUT, UNTIL, read_world, service
from recsys.reports import Cell, Table
from recsys.simulation.clicks import ClickModel
from recsys.simulation.constants import Constants
from recsys.simulation.log import Log
from recsys.simulation.loop import Simulation
from recsys.simulation.shops import Answer, AsgiShop, CallableShop, Event, Request, Shop, SimulatedClock
from recsys.simulation.traffic import Visits, plan_visits
from recsys.simulation.truth import expected_of
from recsys.simulation.world import SECONDS_PER_DAY, World
from recsys.store.database import database_url
from service.embedded_redis import embedded_redis

WEEK: Final = 7 * SECONDS_PER_DAY
HEAD: Final = 0.01
"""Of the catalogue, by lines sold before the cut: the popular items."""
EXPLORING: Final = 0.1
"""Share of the shoppers who get random items in the permanent arm."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the weeks."""

    name: str
    retrain: bool
    exploring: float = 0.0


VARIANTS: Final = (
    Variant("as on the first day", retrain=False),
    Variant("retrained weekly", retrain=True),
    Variant("retrained weekly, exploring", retrain=True, exploring=EXPLORING),
)


@dataclass(frozen=True, slots=True)
class Order:
    """A variant to simulate."""

    variant: Variant
    folder: Path
    """Its own, to be made."""
    data: Path
    days: tuple[str, str]
    """Of the world: from and until before (`YYYY-MM-DD`). The weeks are its first."""
    weeks: int
    constants: Constants
    seed: int
    visits_share: float


@dataclass(frozen=True, slots=True)
class Week:
    """What the shop's own answers of a week were, those of the exploration left out."""

    number: int
    """From 1."""
    visits: int
    items: int
    """Different ones that were shown."""
    head: float
    """Share of what was shown that is in the head of the catalogue."""
    ctr: float
    """Expected."""
    random_ctr: float
    """Expected, had the same visits met random items only."""

    @property
    def lift(self) -> float:
        """True, over random."""
        return self.ctr / self.random_ctr - 1


@dataclass(slots=True)
class Changing:
    """A shop whose service is replaced while shoppers go on."""

    shop: Shop

    def recommend(self, request: Request, at: float) -> Answer:
        """See `Shop`."""
        return self.shop.recommend(request, at)

    def page(self, request: Request, at: float) -> dict[str, Answer]:
        """See `Shop`."""
        return self.shop.page(request, at)

    def take(self, events: Sequence[Event], at: float) -> Counter[str]:
        """See `Shop`."""
        return self.shop.take(events, at)


def run_weeks(
    data: Path, folder: Path, constants: Constants, weeks: int, visits: int, seed: int, console: Console
) -> Table:
    """Every variant, with about so many visits each.

    Raises:
        UserError: there are no tables, or not of that month.
    """
    world = read_world(data)
    share = visits / len(_visits_of(world, constants, weeks, seed, 1.0))
    orders = [
        Order(variant, folder / f"weeks-{number}", data, (CUT, UNTIL), weeks, constants, seed, share)
        for number, variant in enumerate(VARIANTS)
    ]
    found = side_by_side(simulate_weeks, orders, len(VARIANTS) * visits, console)
    return weeks_table(dict(zip((variant.name for variant in VARIANTS), found, strict=True)), len(world.items))


def simulate_weeks(order: Order, track: Track) -> list[Week]:
    """The weeks of one variant, in its folder."""
    world = World.read(order.data / "tables", *order.days)
    visits = _visits_of(world, order.constants, order.weeks, order.seed, order.visits_share)
    order.folder.mkdir(parents=True)
    copy_raw(order.data, order.folder, until=order.days[0])
    (order.folder / "experiments.toml").write_text(f"[exploration]\nrandom = {order.variant.exploring}\n")
    retrain(order.folder, world.cut)
    model, clock = ClickModel.of(world, order.constants), SimulatedClock(float(world.cut))
    shop = Changing(CallableShop(lambda _: {}))
    simulation = Simulation(model, order.constants, visits, shop)
    with embedded_redis(order.folder / "redis") as url:
        for week in range(order.weeks):
            start = world.cut + week * WEEK
            if week and order.variant.retrain:
                retrain(order.folder, start)
            with AsgiShop(service(order.folder, url, clock), clock) as shop.shop:
                first, end = np.searchsorted(visits.second, [start, start + WEEK]).tolist()
                simulation.advance(track(range(first, end)))
                if week == order.weeks - 1:
                    log = simulation.finish()
    return weeks_of(world, visits, log, _random(world, order.constants, visits), order.weeks)


def _visits_of(world: World, constants: Constants, weeks: int, seed: int, share: float) -> Visits:
    """The visits of the first weeks, of a share of the shoppers."""
    visits = plan_visits(world, constants.traffic, constants.mess, seed).of_some(share)
    return visits.where(visits.second < world.cut + weeks * WEEK)


def retrain(folder: Path, at: int) -> None:
    """Phase 1 with its defaults on all that is known before `at`, from the shop's export and the service's own database, made live."""
    quiet = Console(quiet=True)
    ingest_log(database_url(folder), folder, quiet)
    summary = build_tables(folder, quiet, as_of=datetime.fromtimestamp(at, UTC) + timedelta(days=1))
    learnt = load_dataset(folder / "tables").before(at)
    surfaces, popularity = PHASES[1].build_surfaces(Workshop(learnt, at, 0), PHASES[1].DEFAULT)
    known = {
        "since": summary.since,
        "until": at,
        "fingerprint": summary.fingerprint,
        "log_until": summary.log_until,
        "catalogue_bytes": summary.catalogue_bytes,
    }
    bundle = write_bundle(
        folder / "bundles",
        phase=1,
        surfaces=surfaces,
        popularity=popularity,
        dataset=learnt,
        at=at,
        metadata={"currency": summary.currency, "data": known},
    )
    publish(folder / "bundles", bundle.name, reason="the week's retraining")


def _random(world: World, constants: Constants, visits: Visits) -> Log:
    """The same visits to a shop of random items."""
    available, rng = np.flatnonzero(world.items.available), np.random.default_rng(visits.seed)

    def answer(request: Request) -> Answer:
        rows = rng.choice(available, request["k"], replace=False).tolist()
        return {"request_id": "r", "items": [{"item_id": world.items.ids[row]} for row in rows]}

    return Simulation(ClickModel.of(world, constants), constants, visits, CallableShop(answer), confirm=False).run()


def weeks_of(world: World, visits: Visits, log: Log, random: Log, weeks: int) -> list[Week]:
    """The measures of each week; `random` is the log of the same visits to random items."""
    in_head = np.zeros(len(world.items), dtype=np.bool_)
    in_head[np.argsort(-world.items.sold_before, kind="stable")[: max(1, round(HEAD * len(in_head)))]] = True
    week = (visits.second - world.cut) // WEEK
    shown_in = log.pages["visit"].to_numpy()[log.shown.page]
    is_own = (log.pages["label"] == "").to_numpy()[log.shown.page]
    found = []
    for number in range(weeks):
        rows = is_own & (week[shown_in] == number)
        items = log.shown.item[rows]
        mine = pl.col("visit").is_in(np.flatnonzero(week == number).tolist())
        found.append(
            Week(
                number + 1,
                visits=len(np.unique(shown_in[rows])),
                items=len(np.unique(items)),
                head=float(in_head[items].mean()),
                ctr=expected_of(log.pages, mine)[""].ctr,
                random_ctr=expected_of(random.pages, mine)[""].ctr,
            )
        )
    return found


def weeks_table(found: dict[str, list[Week]], n_items: int) -> Table:
    """Every variant's weeks."""
    rows: list[list[Cell]] = [
        [
            name,
            week.number,
            week.visits,
            week.items,
            f"{100 * week.items / n_items:.1f}",
            f"{100 * week.head:.1f}",
            f"{100 * week.ctr:.3f}",
            f"{100 * week.lift:.1f}",
        ]
        for name, weeks in found.items()
        for week in weeks
    ]
    columns = [
        "phase 1",
        "week",
        "visits",
        "different items shown",
        "% of the catalogue",
        "% of what is shown in the head",
        "true CTR %",
        "true lift over random %",
    ]
    note = (
        f"The head: the hundredth of the catalogue that sold most before the first week. Exploring: {EXPLORING:.0%} of the shoppers get random items, whose "
        "answers are not counted here. The lift is the simulator's expectation over that of the same visits with random items only; shoppers tire of what "
        "they have seen in every variant."
    )
    return Table("Weeks that learn from their own log", columns, rows, note)
