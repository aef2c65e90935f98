"""What the simulator itself expects of an answering function: the truth that an experiment's estimate is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import polars as pl

from recsys.simulation.clicks import ClickModel
from recsys.simulation.constants import CLEAN, Constants
from recsys.simulation.log import Log
from recsys.simulation.loop import Simulation
from recsys.simulation.shops import Answer, CallableShop, Request
from recsys.simulation.traffic import Visits
from recsys.simulation.world import World

SLICES: Final[Mapping[str, pl.Expr]] = {
    "all": pl.lit(True),
    "known shoppers": ~pl.col("anonymous") & ~pl.col("new_shopper"),
    "new shoppers": ~pl.col("anonymous") & pl.col("new_shopper"),
    "anonymous visits": pl.col("anonymous"),
}


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of one arm: what its answers get in the mean, shown to these visits."""

    shown: int
    ctr: float
    """Clicks per shown item."""
    new_item_ctr: float
    """The same of items first met after the cut; NaN where none was shown."""
    revenue_per_visit: float
    """Cents of purchases that would not have been made without it."""


def expectations(log: Log, where: pl.Expr = SLICES["all"]) -> dict[str, Expectation]:
    """What the answers that were really given are expected to have got, for each label; bots are left out.

    Each answer counts with its expectation given all that was seen before, so the mean of what happened is estimated without the noise of
    single clicks; exactly, where answers do not depend on clicks.
    """
    pages = log.pages.filter(~pl.col("bot"), where)
    sums = pages.group_by("label").agg(
        pl.col("shown", "expected_clicks", "new_shown", "expected_new_clicks", "expected_revenue_cents").sum(),
        pl.col("visit").n_unique().alias("visits"),
    )
    return {
        row["label"]: Expectation(
            shown=row["shown"],
            ctr=row["expected_clicks"] / row["shown"] if row["shown"] else float("nan"),
            new_item_ctr=row["expected_new_clicks"] / row["new_shown"] if row["new_shown"] else float("nan"),
            revenue_per_visit=row["expected_revenue_cents"] / row["visits"],
        )
        for row in sums.sort("label").to_dicts()
    }


def truth(
    model: ClickModel,
    constants: Constants,
    visits: Visits,
    answer: Callable[[Request], Answer],
    where: pl.Expr = SLICES["all"],
) -> Expectation:
    """What an answering function gets from these visits in the mean, were it to answer all of them."""
    shop = CallableShop(answer)
    log = Simulation(model, replace(constants, mess=CLEAN), visits, shop, label=lambda _: "", confirm=False).run()
    return expectations(log, where)[""]


def sensitivity(
    world: World,
    constants: Constants,
    visits: Visits,
    arms: Mapping[str, Callable[[Request], Answer]],
    baseline: str,
    ranges: Mapping[str, tuple[Any, ...]],
) -> pl.DataFrame:
    """Each arm's expected CTR lift over `baseline` while one constant of the clicks moves over its range and the others stay.

    `ranges`: values by name of a field of `Clicks`. Columns: constant, value, arm, ctr, lift. An arm is asked anew for each value,
    as what it answers may depend on what it was asked before.
    """
    rows: list[dict[str, Any]] = []
    for name, values in ranges.items():
        for value in values:
            changed = replace(constants, clicks=replace(constants.clicks, **{name: value}))
            model = ClickModel.of(world, changed)
            found = {arm: truth(model, changed, visits, answer) for arm, answer in arms.items()}
            base = found[baseline].ctr
            rows += [
                {"constant": name, "value": float(value), "arm": arm, "ctr": one.ctr, "lift": one.ctr / base - 1}
                for arm, one in found.items()
            ]
    return pl.DataFrame(rows)
