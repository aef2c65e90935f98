"""The case study, closed loop: arms in the real service, simulated shoppers whose truth is known, read out from what was logged.

`recsys case-study`. The month is simulated several times over; the readout is the one that `recsys report` prints, over the visits of all
months. Beside each estimate stands what the simulator, which knows every chance, expects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Final

import polars as pl
from rich.console import Console

from recsys.experiments.analysis import Readout, read_out
from recsys.experiments.plan import Experiment
from recsys.reality.months import Estimated, Evidence, Month, Order, simulate_months
from recsys.reality.study import (
    CAMPAIGN_SHARES,
    CUT,
    SHARES,
    UNTIL,
    campaign_category,
    fit_bundles,
    phase_arms,
    read_world,
    write_plan,
)
from recsys.simulation.constants import Constants
from recsys.simulation.traffic import plan_visits
from recsys.simulation.truth import SLICES, Expectation, expected_of

STEPS: Final = (("phase1", "popularity"), ("phase2", "phase1"), ("phase3", "phase2"))


CAMPAIGN_VISITS: Final = 0.25
"""The campaign's visits, for each of the experiment's."""


@dataclass(frozen=True)
class Outcome:
    """What the experiment says, and what is true."""

    experiment: Experiment
    readout: Readout
    against: Mapping[str, Readout]
    """The same, read against other arms than random."""
    expected: Readout
    """The same estimates from what the simulator expected of each visit in place of what was clicked."""
    expected_against: Mapping[str, Readout]
    """The same against the arms of `against`."""
    slices: Mapping[str, Readout]
    """By who visits, and of new items."""
    truth: Mapping[str, Mapping[str, Expectation]]
    """By slice and arm."""
    surfaces: pl.DataFrame
    """Columns arm, surface, shown, ctr: expected."""
    moved: pl.DataFrame
    """Columns constant, value, arm, lift: see `recsys.simulation.truth.moved`."""
    whole: Mapping[str, Estimated]
    """What the random arm's log says of each phase off-policy, on the whole catalogue."""
    campaign: Mapping[str, Estimated]
    """The same of a campaign of few items, beside what the phase's own arm got there."""
    visits: int
    """Of people, in all arms."""


def pooled(experiment: Experiment, months: Sequence[Month], campaign: Sequence[Month] = ()) -> Outcome:
    """The months read out together: a shopper is another unit in each, since each assigns them anew."""
    units, expected = (pl.concat(parts) for parts in ([m.units for m in months], [m.expected for m in months]))
    pages = pl.concat([month.pages for month in months])
    new_items = pl.concat([month.new_items for month in months])
    slices = {name: read_out(experiment, units.filter(who=name)) for name in ("known", "new", "anonymous")}
    controls = dict.fromkeys(control for _, control in STEPS if control in {arm.name for arm in experiment.arms})
    others = {one: experiment.model_copy(update={"control": one}) for one in controls}
    return Outcome(
        experiment=experiment,
        readout=read_out(experiment, units),
        against={control: read_out(one, units) for control, one in others.items()},
        expected=read_out(experiment, expected),
        expected_against={control: read_out(one, expected) for control, one in others.items()},
        slices={**slices, "new items": read_out(experiment, new_items)},
        truth={name: expected_of(pages, where) for name, where in SLICES.items()},
        surfaces=_by_surface(pages),
        moved=_lifts(pl.concat([month.moved for month in months])),
        whole=_estimated(months),
        campaign=_estimated(campaign),
        visits=pages.filter(~pl.col("bot"))["visit"].n_unique(),
    )


def _by_surface(pages: pl.DataFrame) -> pl.DataFrame:
    sums = pages.filter(~pl.col("bot")).group_by("label", "surface").agg(pl.col("shown", "expected_clicks").sum())
    ctr = (pl.col("expected_clicks") / pl.col("shown")).alias("ctr")
    return sums.select(pl.col("label").alias("arm"), "surface", "shown", ctr).sort("arm", "surface")


def _lifts(moved: pl.DataFrame) -> pl.DataFrame:
    keys = ["constant", "value", "arm"]
    ctr = (
        moved.group_by(keys, maintain_order=True)
        .sum()
        .select(*keys, (pl.col("expected_clicks") / pl.col("shown")).alias("ctr"))
    )
    base = ctr.filter(arm="random").select("constant", "value", pl.col("ctr").alias("base"))
    return ctr.join(base, on=["constant", "value"], maintain_order="left").select(
        *keys, (pl.col("ctr") / pl.col("base") - 1).alias("lift")
    )


def _estimated(months: Sequence[Month]) -> dict[str, Estimated]:
    """By phase one estimate from all months."""
    phases = dict.fromkeys(phase for month in months for phase in month.policies)
    return {phase: Evidence.together([month.policies[phase] for month in months]).estimated() for phase in phases}


def run(
    data: Path, folder: Path, scratch: Path, constants: Constants, visits: int, seed: int, console: Console
) -> Outcome:
    """All of it from the tables below `data`: bundles below `folder`, months below `scratch`. About so many visits, and those of the campaign.

    Raises:
        UserError: there are no tables, or not of that month.
    """
    world = read_world(data)
    fit_bundles(folder, data / "tables", console)
    days = date.fromisoformat(CUT), date.fromisoformat(UNTIL)
    category = campaign_category(world, data / "tables")
    of_a_month = len(plan_visits(world, constants.traffic, constants.mess, seed))
    # Two at a time, so that neither core is idle at the end.
    n = 2 * math.ceil(visits / of_a_month / 2)
    whole = Order(
        folder=scratch / "month",
        bundles=folder / "bundles",
        data=data,
        days=(CUT, UNTIL),
        shares=SHARES,
        constants=constants,
        seed=seed,
        visits_share=min(1.0, visits / of_a_month / n),
    )
    campaign = replace(
        whole,
        folder=scratch / "campaign",
        shares=CAMPAIGN_SHARES,
        # What is sold otherwise is no part of it: its own page, and the cart.
        constants=replace(constants, traffic=replace(constants.traffic, page_share=0.0, product_pages=0)),
        seed=seed + n,
        visits_share=min(1.0, CAMPAIGN_VISITS * visits / of_a_month / 2),
        category=category,
        asked_again=4_000,
        # What a policy would have got is estimated for the same visits, tired as they were of all that was shown.
        unit="session",
    )
    orders = [*whole.times(n), *campaign.times(2)]
    months = simulate_months(orders, round(of_a_month * sum(one.visits_share for one in orders)), console)
    experiment = write_plan(scratch / "experiments.toml", phase_arms(SHARES), *days)
    return pooled(experiment, months[:n], months[n:])
