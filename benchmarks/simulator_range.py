"""What there is to gain in the simulator: lists that no model made, and one that knows every taste.

`python -m benchmarks.simulator_range`, on an eighth of the validation month's shoppers. No trained phase is run. It changes no constant.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from rich.console import Console

from benchmarks.calibrate_simulator import CUT, UNTIL
from recsys.events import EventType
from recsys.reports import Cell, Table, write_report
from recsys.simulation.clicks import ClickModel
from recsys.simulation.constants import Constants
from recsys.simulation.shops import Answer, Request
from recsys.simulation.traffic import Visits, plan_visits
from recsys.simulation.truth import sensitivity, truth
from recsys.simulation.world import World

EVERY: Final = 8
"""One shopper in so many."""
HISTORY_DAYS: Final = 180
DEPTH: Final = 300
RANGES: Final = {
    "taste_share": (0.035, 0.132, 0.18),
    "fatigue": (0.8, 0.9, 1.0),
    "position_effect": (0.0, 0.148, 0.366),
    "curiosity": (0.0, 0.1, 0.3),
}

Arm = Callable[[Request], Answer]


def at_random(world: World) -> Arm:
    """Any available items."""
    available, rng = np.flatnonzero(world.items.available), np.random.default_rng(0)
    return lambda request: _answer(world, rng.choice(available, request["k"], replace=False).tolist())


def listed(world: World, own: dict[str, list[int]]) -> Arm:
    """A list for each shopper, then what sold most in the four weeks before the cut; nothing from the cart."""
    best = np.argsort(-world.items.sold_before, kind="stable")[:DEPTH].tolist()
    row = {item_id: number for number, item_id in enumerate(world.items.ids)}

    def arm(request: Request) -> Answer:
        cart = {row[item_id] for item_id in request.get("cart", ())}
        rows = dict.fromkeys([*own.get(request.get("user_id", ""), []), *best])
        return _answer(world, [one for one in rows if one not in cart][: request["k"]])

    return arm


def bought_most(world: World, tables: Path) -> dict[str, list[int]]:
    """What each shopper bought most often in the half year before the cut."""
    cut, day = datetime.fromisoformat(CUT), pl.col("occurred_at")
    lines = pl.scan_parquet(tables / "interactions.parquet").filter(
        day >= cut - timedelta(days=HISTORY_DAYS), day < cut, pl.col("event_type") == EventType.PURCHASE
    )
    counts = lines.group_by("user_id", "item_id").len().collect().sort("len", "item_id", descending=[True, False])
    row = {item_id: number for number, item_id in enumerate(world.items.ids)}
    lists = counts.group_by("user_id", maintain_order=True).agg(pl.col("item_id").head(DEPTH))
    return {user: [row[item_id] for item_id in items] for user, items in lists.iter_rows()}


def wanted_most(model: ClickModel) -> dict[str, list[int]]:
    """What each shopper will buy, the most wanted first: the truth."""
    tastes, n = model.world.tastes, len(model.world.items)
    lists = {}
    for shopper, user_id in enumerate(model.world.shopper_ids):
        own = tastes.traits[tastes.offsets[shopper] : tastes.offsets[shopper + 1]]
        rows = own[own < n]
        lists[str(user_id)] = rows[np.argsort(-model.taste(shopper, rows), kind="stable")].tolist()
    return lists


def _answer(world: World, rows: Sequence[int]) -> Answer:
    return {"request_id": "r", "items": [{"item_id": world.items.ids[row]} for row in rows]}


def run(data_dir: Path, console: Console) -> None:
    """Compare the lists and write reports/simulator_range.json."""
    world, constants = World.read(data_dir / "tables", CUT, UNTIL), Constants.read()
    model = ClickModel.of(world, constants)
    planned = plan_visits(world, constants.traffic, constants.mess, 0)
    keep = planned.shopper % EVERY == 0
    visits = Visits(planned.seed, *(getattr(planned, one.name)[keep] for one in fields(planned)[1:]))
    arms = {
        "random": at_random(world),
        "what sells": listed(world, {}),
        "bought most before": listed(world, bought_most(world, data_dir / "tables")),
        "the truth": listed(world, wanted_most(model)),
    }
    found = {name: truth(model, constants, visits, arm) for name, arm in arms.items()}
    base = found["random"].ctr
    rows: list[list[Cell]] = [
        [name, 100 * one.ctr, 100 * (one.ctr / base - 1), one.revenue_per_visit / 100] for name, one in found.items()
    ]
    moved = sensitivity(world, constants, visits, arms, "random", RANGES)
    lifts = moved.with_columns(pl.col("lift") * 100).pivot(on="arm", index=["constant", "value"], values="lift")
    moved_rows: list[list[Cell]] = [list(row) for row in lifts.drop("random").iter_rows()]
    note = (
        f"{len(visits):,} visits of one shopper in {EVERY}, expected figures. Every list is the same on each page of each visit but for what is in the cart, so it tires as no recommender's pages "
        "would. An anonymous visit gets what sells, also from the list that knows the truth."
    )
    tables = [
        Table(
            "Lists that no model made",
            ["list", "CTR in %", "lift over random in %", "added revenue per visit"],
            rows,
            note,
        ),
        Table("Their lifts over random in % under other constants", ["constant", "value", *list(arms)[1:]], moved_rows),
    ]
    for table in tables:
        for line in table.rows:
            console.print(*line)
    write_report("simulator_range", "make bench-simulator", tables)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    run(parser.parse_args().data_dir, Console())
