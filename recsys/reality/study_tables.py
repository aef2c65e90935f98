"""What the case study found, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl

from recsys.experiments.analysis import Readout
from recsys.experiments.offpolicy import Trust
from recsys.reality.months import GRID, Estimated
from recsys.reality.outcome import STEPS, Outcome
from recsys.reality.study import ADDED, METRICS
from recsys.reports import Cell, Table, interval

CLAIMS: Final = {"phase1": 0.23, "phase2": 0.41, "phase3": 0.47}
"""CTR against random, of the case study."""
WANTED: Final = 0.03
"""Half the width that an interval of a lift should have."""
AGAIN: Final = "random_again"
AGAIN_WITHIN: Final = 0.05
NONE: Final = "–"

Found = tuple[float, float, float]
"""A relative difference with its interval."""


def lift(readout: Readout, arm: str, metric: str = "ctr") -> Found | None:
    """Relative difference with its interval; None without data."""
    rows = readout.lifts.filter(arm=arm, metric=metric, status="ok")
    if not len(rows) or rows["relative"][0] is None:
        return None
    return rows["relative"][0], rows["relative_low"][0], rows["relative_high"][0]


def percent(found: Found | None) -> str:
    """In %, with its interval; a dash without data."""
    if found is None:
        return NONE
    value, low, high = found
    return interval(100 * value, 100 * low, 100 * high, digits=1)


def main_tables(outcome: Outcome) -> list[Table]:
    """What came of the experiment, and whether to believe it."""
    return [lifts_table(outcome), steps_table(outcome), checks_table(outcome)]


def detail_tables(outcome: Outcome) -> list[Table]:
    """For whom, how sure, and under which assumptions."""
    return [
        slices_table(outcome),
        true_slices_table(outcome),
        surfaces_table(outcome),
        precision_table(outcome),
        sensitivity_table(outcome),
        needed_table(outcome),
    ]


def lifts_table(outcome: Outcome) -> Table:
    """Every arm against random, beside the claim and the truth."""
    true = outcome.truth["all"]
    rows: list[list[Cell]] = []
    for arm, units in outcome.readout.units.items():
        estimate, claim = lift(outcome.readout, arm), CLAIMS.get(arm)
        rows.append(
            [
                arm,
                units,
                f"{100 * true[arm].ctr:.3f}",
                percent(estimate),
                percent(lift(outcome.expected, arm)),
                "" if claim is None else f"+{claim:.0%}",
                "" if claim is None or estimate is None else estimate[1] > claim,
                *(percent(lift(outcome.readout, arm, metric)) for metric in METRICS[1:]),
            ]
        )
    columns = [
        "arm",
        "units",
        "true CTR %",
        "CTR lift % [95%]",
        "expected lift % [95%]",
        "claim",
        "lower bound above it",
    ]
    names = ["conversion lift %", "attributed revenue lift %", "all revenue lift %"]
    note = (
        "Lifts over random items, one look at the end. Expected: the same estimate from what the simulator, which knows every chance, expected of the "
        "answers that were really given, without the noise of single clicks. Conversion: orders that follow from a seen item, per exposure; revenue of a "
        "unit: attributed, and all of it. A unit is a shopper in a month, who stays in one arm and so tires of what that arm shows, or an anonymous visit. random_again is random a "
        "second time (A/A); of random_plus5 items, random too, shoppers click 5% more on purpose."
    )
    return Table("Arms against random items", [*columns, *names], rows, note)


def steps_table(outcome: Outcome) -> Table:
    """Each phase against the one before."""
    rows: list[list[Cell]] = []
    for arm, control in STEPS:
        if control in outcome.against and arm in outcome.readout.units:
            found, expected = (lift(one[control], arm) for one in (outcome.against, outcome.expected_against))
            sure: list[Cell] = ["" if one is None else one[1] > 0 for one in (found, expected)]
            rows.append([f"{arm} over {control}", percent(found), sure[0], percent(expected), sure[1]])
    columns = ["", "CTR lift % [95%]", "surely above 0", "expected lift % [95%]", "surely above 0 "]
    return Table("Each phase over the one before", columns, rows)


def checks_table(outcome: Outcome) -> Table:
    """Whether the experiment finds what is known to be true."""
    readout, true = outcome.readout, outcome.truth["all"]
    rows: list[list[Cell]] = [
        ["sizes of the arms as planned", "p above 0.001", f"p = {readout.mismatch_p:.3f}", readout.reason == ""]
    ]
    if (found := lift(readout, AGAIN)) is not None:
        within = abs(found[0]) <= AGAIN_WITHIN and found[1] <= 0 <= found[2]
        rows.append(["A/A: random again, lift in %", f"0, within {AGAIN_WITHIN:.0%}", percent(found), within])
    for arm, factor in ADDED.items():
        if (found := lift(readout, arm)) is not None:
            rows.append(
                [
                    f"{factor - 1:.0%} more clicks put in, lift in %",
                    f"{100 * (factor - 1):.1f}",
                    percent(found),
                    found[1] <= factor - 1 <= found[2],
                ]
            )
    for arm in readout.units:
        if arm != outcome.experiment.control and (found := lift(readout, arm)) is not None:
            expected = true[arm].ctr / true[outcome.experiment.control].ctr - 1
            holds = found[1] <= expected <= found[2]
            rows.append([f"{arm}: the simulator's lift in %", f"{100 * expected:.1f}", percent(found), holds])
    rows += _policies(outcome.campaign, "off-policy, campaign")
    rows += _policies(outcome.whole, "off-policy, whole catalogue")
    note = (
        "Each interval misses what is true one time in twenty, and as all lifts are over the same random arm, they miss together. Off-policy: a phase's CTR in % from the log of the random arm (self-normalised), beside what "
        "the simulator expected of its own arm. Among all items a random one hardly ever is what a phase would have shown, and the estimate says so; so there is a campaign "
        "of one category's items too, the same for all arms, in an experiment of its own."
    )
    return Table("Does the experiment find the truth?", ["check", "true", "found [95%]", "holds"], rows, note)


def _policies(found: Mapping[str, Estimated], title: str) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for phase, one in found.items():
        told = one.trust is not Trust.NOT_ESTIMABLE
        words = interval(100 * one.value, 100 * one.low, 100 * one.high, digits=3)
        shown = f"{words} ({one.trust})" if told else f"not estimable: {one.reasons[0]}"
        covers: Cell = one.low <= one.true <= one.high if told else NONE
        true = f"{100 * one.true:.3f} (by its own arm's log {100 * one.online:.3f})"
        rows.append([f"{title}: {phase}, CTR in %", true, shown, covers])
    return rows


def slices_table(outcome: Outcome) -> Table:
    """The lifts by who visits, and of new items, by what was logged."""
    rows: list[list[Cell]] = [
        [
            arm,
            percent(lift(outcome.readout, arm)),
            *(percent(lift(readout, arm)) for readout in outcome.slices.values()),
        ]
        for arm in outcome.readout.units
        if arm != outcome.experiment.control
    ]
    sizes = {name: sum(readout.units.values()) for name, readout in outcome.slices.items()}
    columns = ["arm", "all", *(f"{name} ({size:,} units)" for name, size in sizes.items())]
    note = (
        "In % with 95% intervals. Known: logged in, and bought before the cut; new: logged in, first purchase after it; new items: first met after it, "
        "units that were shown any."
    )
    return Table("CTR lifts over random, by who visits and of new items", columns, rows, note)


def true_slices_table(outcome: Outcome) -> Table:
    """The true lifts by who visits, and of new items."""
    rows: list[list[Cell]] = []
    for arm in outcome.readout.units:
        if arm == "random":
            continue
        row: list[Cell] = [arm]
        for found in outcome.truth.values():
            mine, base = found.get(arm), found.get("random")
            row.append(
                NONE if mine is None or base is None or not base.ctr else f"{100 * (mine.ctr / base.ctr - 1):.1f}"
            )
        new, old = outcome.truth["all"][arm].new_item_ctr, outcome.truth["all"]["random"].new_item_ctr
        row.append(f"{100 * (new / old - 1):.1f}" if old and new == new else NONE)
        rows.append(row)
    columns = ["arm", *(f"{name}, lift %" for name in outcome.truth), "new items, lift %"]
    return Table("True CTR lifts over random, by who visits", columns, rows)


def surfaces_table(outcome: Outcome) -> Table:
    """Where on the pages an arm gains."""
    names = outcome.surfaces.group_by("surface").agg(pl.col("shown").sum()).sort("shown", descending=True)
    ctr = {(arm, surface): value for arm, surface, _, value in outcome.surfaces.iter_rows()}
    rows: list[list[Cell]] = [
        [arm, *(f"{100 * ctr[arm, one]:.3f}" if (arm, one) in ctr else NONE for one in names["surface"])]
        for arm in outcome.readout.units
    ]
    total = int(names["shown"].sum())
    columns = [f"{name} ({shown / total:.0%} of what is shown)" for name, shown in names.iter_rows()]
    return Table("True CTR in % by surface", ["arm", *columns], rows)


def precision_table(outcome: Outcome) -> Table:
    """How sure the lifts are, and how many visits it would take for them to be as sure as wanted."""
    rows: list[list[Cell]] = []
    for arm in _claimed(outcome):
        half, known = (_half(lift(readout, arm)) for readout in (outcome.readout, outcome.expected))
        if half is not None:
            needed = round(outcome.visits * (half / WANTED) ** 2, -3)
            rows.append(
                [arm, outcome.visits, f"{100 * half:.1f}", int(needed), NONE if known is None else f"{100 * known:.1f}"]
            )
    columns = [
        "lift over random of",
        "visits in all arms",
        "half the interval, in points",
        f"visits needed for {100 * WANTED:.0f} points",
        "half the interval of the expectation",
    ]
    note = "A width falls with the root of the visits. Random has the largest share, as it is in every comparison."
    return Table("How sure that is", columns, rows, note)


def _claimed(outcome: Outcome) -> dict[str, float]:
    return {arm: claim for arm, claim in CLAIMS.items() if arm in outcome.readout.units}


def _half(found: Found | None) -> float | None:
    return None if found is None else (found[2] - found[1]) / 2


def sensitivity_table(outcome: Outcome) -> Table:
    """The true lifts while one assumption moves."""
    rows: list[list[Cell]] = []
    shown = {**GRID, "taste_share": GRID["taste_share"][::4]}
    for name, values in shown.items():
        for value in values:
            own = outcome.moved.filter(constant=name, value=value)
            lifts = dict(zip(own["arm"], own["lift"], strict=True))
            rows.append([name, value, *(f"{100 * lifts[arm]:.1f}" for arm in ("popularity", *CLAIMS))])
    note = "The answers that were given, looked at under other constants; the others stay as they are."
    columns = ["assumption", "value", *(f"{arm}, lift %" for arm in ("popularity", *CLAIMS))]
    return Table("True lifts over random under other assumptions", columns, rows, note)


def needed_table(outcome: Outcome) -> Table:
    """The share of taste in a click at which each phase would gain what the case study says."""
    taste = outcome.moved.filter(constant="taste_share")
    plausible = (0.035, 0.18)
    rows: list[list[Cell]] = []
    for arm, claim in _claimed(outcome).items():
        share = _reached(taste.filter(arm=arm), claim)
        fits: Cell = NONE if share is None else plausible[0] <= share <= plausible[1]
        rows.append([arm, f"+{claim:.0%}", NONE if share is None else f"{share:.3f}", fits])
    columns = ["phase", "lift", "taste share at which it would be so", f"within {plausible[0]} to {plausible[1]}"]
    note = "The simulator has 0.132, fitted to what a learner that knows no shopper gained in real logs (docs/simulator.md)."
    return Table("What would have to be true for the case study's own numbers", columns, rows, note)


def _reached(moved: pl.DataFrame, claim: float) -> float | None:
    """Where the lift, which rises with the share, is `claim`; None beyond the grid."""
    lifts = moved.sort("value")["lift"].to_numpy()
    if not lifts[0] <= claim <= lifts[-1]:
        return None
    return float(np.interp(claim, lifts, moved.sort("value")["value"].to_numpy()))
