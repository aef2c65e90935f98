"""What the case study found, as tables."""

from __future__ import annotations

from typing import Final

from recsys.experiments.analysis import Readout
from recsys.reality.study import ARMS, METRICS, STEPS, Outcome
from recsys.reports import Cell, Table, interval

CLAIMS: Final = {"phase1": 0.23, "phase2": 0.41, "phase3": 0.47}
"""CTR against random, of the case study."""


def lift(readout: Readout, arm: str, metric: str = "ctr") -> tuple[float, float, float] | None:
    """Relative difference with its interval; None without data."""
    rows = readout.lifts.filter(arm=arm, metric=metric, status="ok")
    if not len(rows) or rows["relative"][0] is None:
        return None
    return rows["relative"][0], rows["relative_low"][0], rows["relative_high"][0]


def _percent(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return "–"
    value, low, high = found
    return interval(100 * value, 100 * low, 100 * high, digits=1)


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
