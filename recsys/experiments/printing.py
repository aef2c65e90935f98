"""A plan of experiments on the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from recsys.events import Surface
from recsys.experiments.offpolicy import Comparison
from recsys.experiments.plan import EXPLORING, THE_SHOPS, Assignment, Configuration, Experiment, Plan

if TYPE_CHECKING:
    from recsys.experiments.power import Baseline
    from recsys.experiments.preference import Preference


def print_plan(plan: Plan, console: Console) -> None:
    """Every experiment, and the share of all units that each arm has."""
    console.print(f"version [bold]{plan.version}[/bold]", highlight=False)
    table = Table("experiment", "layer", "its buckets", "unit", "surfaces", "start", "stop", "control", "primary")
    for one in plan.experiments:
        surfaces = "all" if len(one.surfaces) == len(Surface) else ", ".join(one.surfaces)
        of_layer = f"{one.buckets[0]:,} to {one.buckets[1]:,}"
        times = (f"{moment:%Y-%m-%d %H:%M}" if moment else "–" for moment in (one.start, one.end))
        table.add_row(
            one.name, one.layer, of_layer, plan.layers[one.layer].unit, surfaces, *times, one.control, one.primary
        )
    if plan.experiments:
        console.print(table)
    arms = Table("experiment", "arm", "buckets", "share of all units", "answers with")
    of_arm = {(one.name, arm.name): arm.configuration for one in plan.experiments for arm in one.arms}
    for experiment, arm, buckets, share in plan.shares():
        configuration = of_arm.get((experiment, arm), EXPLORING.get(arm, THE_SHOPS))
        arms.add_row(experiment, arm, f"{buckets.start:,} to {buckets.stop:,}", f"{share:.2%}", _words(configuration))
    console.print(arms)


def print_sizes(
    plan: Plan, experiments: Sequence[Experiment], baseline: Baseline, lift: float, power: float, console: Console
) -> None:
    """How large and how long experiments of the plan have to be."""
    from recsys.experiments.power import sizes

    title = f"To find a lift of {lift:.1%} with power {power:.0%}, from {baseline.mean:g} +- {baseline.standard_deviation:.3g}"
    table = Table(
        "experiment",
        "arm",
        "units in both arms",
        "days",
        "planned days",
        "power by then",
        "lift found by then",
        title=title,
    )
    for experiment in experiments:
        for size in sizes(plan, experiment, baseline, lift, power):
            planned = "–" if size.planned_days is None else f"{size.planned_days:g}"
            shares = ("–" if value is None else f"{value:.1%}" for value in (size.power, size.detectable))
            table.add_row(size.experiment, size.arm, f"{size.units:,}", f"{size.days:,}", planned, *shares)
    console.print(table)


def print_assignments(plan: Plan, user_id: str | None, session_id: str | None, at: datetime, console: Console) -> None:
    """What one unit gets, surfaces that get the same together."""
    alike: dict[Assignment, list[str]] = defaultdict(list)
    for surface in Surface:
        alike[plan.assign(user_id, session_id, surface, at)].append(surface)
    table = Table("surfaces", "experiment", "arm", "share of all units", "answers with")
    for assignment, surfaces in alike.items():
        names = "all" if len(surfaces) == len(Surface) else ", ".join(surfaces)
        words = _words(assignment.configuration)
        if not assignment.placements:
            table.add_row(names, "none", "–", "–", words)
        for placement in assignment.placements:
            table.add_row(names, placement.experiment, placement.arm, f"{placement.share:.2%}", words)
    console.print(table)


def _words(configuration: Configuration) -> str:
    """What differs from the shop's own."""
    given = configuration.model_dump(mode="json", exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "as the shop has it"


def print_comparison(candidate: str, champion: str, comparison: Comparison, console: Console) -> None:
    """An off-policy comparison as a table, and whether to believe it."""
    table = Table("", "value", "95% interval", "effective rows")
    ours, theirs, difference = comparison.candidate, comparison.champion, comparison.difference
    for name, one in ((candidate, ours), (champion, theirs), ("difference", difference)):
        table.add_row(name, f"{one.value:.5f}", f"{one.low:.5f} to {one.high:.5f}", f"{one.ess:,.0f} of {one.n:,}")
    console.print(table)
    console.print(f"{comparison.trust}{''.join(f'; {reason}' for reason in comparison.reasons)}", soft_wrap=True)


def print_preference(first: str, second: str, found: Preference, console: Console) -> None:
    """Which of two interleaved bundles is preferred, and how sure that is."""
    console.print(
        f"{found.first:,} shoppers prefer {first}, {found.second:,} {second}, {found.ties:,} neither", soft_wrap=True
    )
    if found.share is None or found.low is None or found.high is None or found.p is None:
        console.print("nobody prefers one: run it longer")
        return
    sure = "" if found.low > 0.5 or found.high < 0.5 else ", which may be chance: run it longer"
    console.print(
        f"of those who prefer one, {found.share:.1%} [{found.low:.1%}, {found.high:.1%}] prefer {second} (p = {found.p:.3g}){sure}",
        soft_wrap=True,
    )
