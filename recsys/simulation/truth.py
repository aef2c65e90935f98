"""What the simulator itself expects of an answering function: the truth that an experiment's estimate is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from recsys.simulation.clicks import ClickModel, examination
from recsys.simulation.constants import CLEAN, Constants, with_clicks
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
    return expected_of(log.pages, where)


def expected_of(pages: pl.DataFrame, where: pl.Expr = SLICES["all"]) -> dict[str, Expectation]:
    """The same of pages, `recsys.simulation.log.PAGES`, of several runs together, say; visits have different numbers."""
    sums = (
        pages.filter(~pl.col("bot"), where)
        .group_by("label")
        .agg(
            pl.col("shown", "expected_clicks", "new_shown", "expected_new_clicks", "expected_revenue_cents").sum(),
            pl.col("visit").n_unique().alias("visits"),
        )
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


PLAUSIBLE: Final[Mapping[str, tuple[float, ...]]] = {
    "taste_share": (0.035, 0.07, 0.1, 0.132, 0.15, 0.18),
    "position_effect": (0.0, 0.148, 0.366),
    "curiosity": (0.0, 0.1, 0.2, 0.3),
    "fatigue": (0.8, 0.9, 1.0),
    "price_effect": (0.0, 0.1, 0.5),
    "novelty": (1.0, 1.1, 1.5),
}
"""Fields of `Clicks` and values that each may have as well, see docs/simulator.md."""


class Recorded:
    """An answering function that is asked once for each of a run's pages; later runs over the same visits get the same answers."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._answers: list[tuple[str, ...]] = []
        self._next = 0

    def rewind(self) -> None:
        """The next request is again a run's first."""
        self._next = 0

    def __call__(self, request: Request) -> Answer:
        """The answer to a run's next request."""
        if self._next == len(self._answers):
            self._answers.append(tuple(item["item_id"] for item in self._answer(request)["items"]))
        items = self._answers[self._next]
        self._next += 1
        return {"request_id": str(self._next), "items": [{"item_id": item_id} for item_id in items]}


def sensitivity(
    world: World,
    constants: Constants,
    visits: Visits,
    arms: Mapping[str, Callable[[Request], Answer]],
    baseline: str,
    ranges: Mapping[str, tuple[Any, ...]] = PLAUSIBLE,
) -> pl.DataFrame:
    """Each arm's expected CTR lift over `baseline` while one constant of the clicks moves over its range and the others stay.

    `ranges`: values by name of a field of `Clicks`. Columns: constant, value, arm, ctr, lift. What is asked does not depend on these
    constants, so each arm is asked once, and its answers are looked at anew for each value.
    """
    recorded = {arm: Recorded(answer) for arm, answer in arms.items()}
    rows: list[dict[str, Any]] = []
    for name, value in ((name, value) for name, values in ranges.items() for value in values):
        changed = with_clicks(constants, **{name: value})
        model = ClickModel.of(world, changed)
        found = {}
        for arm, answer in recorded.items():
            answer.rewind()
            found[arm] = truth(model, changed, visits, answer)
        base = found[baseline].ctr
        rows += [
            {"constant": name, "value": float(value), "arm": arm, "ctr": one.ctr, "lift": one.ctr / base - 1}
            for arm, one in found.items()
        ]
    return pl.DataFrame(rows)


def moved(
    world: World, constants: Constants, log: Log, ranges: Mapping[str, tuple[Any, ...]] = PLAUSIBLE
) -> pl.DataFrame:
    """What the answers of a run would have been expected to get, had one constant of the clicks another value and the others their own.

    Columns: constant, value, arm, shown, expected_clicks. Exact along the path that was taken, whatever the service learns: nobody is asked
    again. An effect that was put in on purpose (`Simulation(more_clicks=)`) is left out.
    """
    shown, arms = log.shown, log.pages["label"].to_numpy()[log.shown.page]
    names, arm = np.unique(arms, return_inverse=True)
    counts = np.bincount(arm, minlength=len(names))
    rows: list[dict[str, Any]] = []
    for name, value in ((name, value) for name, values in ranges.items() for value in values):
        changed = with_clicks(constants, **{name: value})
        looked = np.zeros(len(shown.item))
        for places in np.unique(shown.places).tolist():
            own = shown.places == places
            looked[own] = examination(places, changed.clicks.position_effect)[shown.place[own] - 1]
        model = ClickModel.of(world, changed)
        chances = model.chances_where(shown.item, shown.taste, shown.second, shown.renders, looked)
        clicks = np.bincount(arm, chances, minlength=len(names))
        rows += [
            {"constant": name, "value": float(value), "arm": one, "shown": n, "expected_clicks": total}
            for one, n, total in zip(names.tolist(), counts.tolist(), clicks.tolist(), strict=True)
        ]
    return pl.DataFrame(rows)
