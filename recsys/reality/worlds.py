"""Worlds: an arm alone in a shop of its own, where the same shoppers make the same visits as in that of every other arm.

What a shopper was shown tires them of it, whichever arm showed it, and half of the reality check's arms show nearly the same: beside one
another in one shop they would wear each other out. Here each answers as it would if the shop had nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from rich.console import Console

from recsys.reality.months import new_shop, simulate
from recsys.reality.processes import Track, side_by_side
from recsys.reality.study import Configurations, Unit, write_plan
from recsys.simulation.constants import Constants
from recsys.simulation.traffic import Visits, plan_visits
from recsys.simulation.world import World
from service.embedded_redis import embedded_redis


@dataclass(frozen=True, slots=True)
class Order:
    """A world to simulate."""

    folder: Path
    """Its own, to be made; the service's database stays in it."""
    bundles: Path
    data: Path
    """Where `recsys tables` has written."""
    world: World
    arms: Configurations
    unit: Unit
    constants: Constants
    seed: int
    visits_share: float
    """Of the shoppers, with all of their visits."""

    @property
    def visits(self) -> Visits:
        """What happens in it."""
        planned = plan_visits(self.world, self.constants.traffic, self.constants.mess, self.seed)
        return planned.of_some(self.visits_share)


def alone(arm: str, given: dict[str, object]) -> Configurations:
    """An arm that has the shop to itself: the service assigns to two arms at least, so both are it."""
    return {name: {"share": 0.5, **given} for name in (arm, f"{arm}_too")}


def simulate_worlds(orders: Sequence[Order], console: Console) -> list[pl.DataFrame]:
    """`recsys.simulation.log.PAGES` of each, bots and answers of no arm left out."""
    return side_by_side(simulate_world, orders, sum(len(order.visits) for order in orders), console)


def simulate_world(order: Order, track: Track) -> pl.DataFrame:
    """One."""
    prepare(order)
    with embedded_redis(order.folder / "redis") as url:
        log = simulate(order.folder, url, order.world, order.visits, order.constants, track=track)
    return log.pages.filter(~pl.col("bot"), pl.col("label") != "")


def prepare(order: Order) -> None:
    """The world's folder."""
    new_shop(order.folder, order.bundles, order.data)
    days = (datetime.fromtimestamp(second, UTC).date() for second in (order.world.cut, order.world.until))
    write_plan(order.folder / "experiments.toml", order.arms, *days, unit=order.unit, control=next(iter(order.arms)))
