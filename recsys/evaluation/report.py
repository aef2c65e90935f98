"""Results as people read them: a table on the terminal, and `reports/<phase>.json` for the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table as RichTable

from recsys.evaluation.evaluate import ALL, COLD, HISTORY_SLICES, NEW
from recsys.evaluation.metrics import METRICS, PRIMARY, K
from recsys.evaluation.reliability import errors
from recsys.reports import Cell, Table, interval, write_report

TARGETS: Final[dict[str, dict[str, dict[str, float]]]] = {
    "Complete Journey": {"phase1": {ALL: 0.372, NEW: 0.052}, "phase2": {}, "phase3": {ALL: 0.39, NEW: 0.063}}
}
"""The primary metric to reach on the test window, by shop, phase and slice."""
MUST_EXCEED: Final = {"phase2": ("phase1",), "phase3": ("phase2", "phase1")}
"""Whom a phase must exceed on all purchases: the interval of the paired difference lies above 0."""
MAX_ECE: Final = 0.02


def _figure(frame: pl.DataFrame, model: str, slice_name: str, metric: str, *, with_interval: bool = True) -> str | None:
    rows = frame.filter(model=model, slice=slice_name, metric=metric).rows(named=True)
    if not rows:
        return None
    row = rows[0]
    return interval(row["value"], row["low"], row["high"]) if with_interval else f"{row['value']:.4f}"


def _models(frame: pl.DataFrame) -> Sequence[str]:
    return frame["model"].unique(maintain_order=True).to_list()


def _size(frame: pl.DataFrame, slice_name: str) -> int:
    sizes = frame.filter(slice=slice_name)["n"]
    return int(sizes[0]) if len(sizes) else 0


def slice_table(frame: pl.DataFrame, slice_name: str) -> Table:
    """Every metric of every model on one slice."""
    columns = ["model", f"{PRIMARY} [95% interval]", *(str(metric) for metric in METRICS[1:])]
    catalogue_wide = [f"coverage@{K}", f"long_tail@{K}", f"categories@{K}"] if slice_name == ALL else []
    rows: list[list[Cell]] = [
        [
            model,
            _figure(frame, model, slice_name, str(PRIMARY)),
            *(_figure(frame, model, slice_name, str(m), with_interval=False) for m in METRICS[1:]),
            *(_figure(frame, model, slice_name, name, with_interval=False) for name in catalogue_wide),
        ]
        for model in _models(frame)
    ]
    title = f"{slice_name[0].upper()}{slice_name[1:]} ({_size(frame, slice_name):,} shoppers)"
    return Table(title, [*columns, *catalogue_wide], rows)


def history_table(frame: pl.DataFrame) -> Table:
    """The primary metric of every model by how much is known of the shopper."""
    names = [name for name, _, _ in HISTORY_SLICES if _size(frame, name)]
    columns = ["model", *(f"{name} ({_size(frame, name):,})" for name in names)]
    rows: list[list[Cell]] = [
        [model, *(_figure(frame, model, name, str(PRIMARY), with_interval=False) for name in names)]
        for model in _models(frame)
    ]
    return Table(f"{PRIMARY} by events known of the shopper (shoppers)", columns, rows)


def difference_table(differences: pl.DataFrame, ours: str) -> Table:
    """Paired differences of the primary metric, with their intervals."""
    rows: list[list[Cell]] = [
        [row["slice"], row["model"], interval(row["difference"], row["low"], row["high"])]
        for row in differences.iter_rows(named=True)
    ]
    return Table(f"{ours} minus each other model, {PRIMARY}, same shoppers", ["slice", "model", "difference"], rows)


def target_table(
    frame: pl.DataFrame, differences: pl.DataFrame, reliability: pl.DataFrame, phase: str, shop: str
) -> Table | None:
    """Targets beside what was measured, for the shops that have any."""
    targets = TARGETS.get(shop, {}).get(phase)
    if targets is None:
        return None
    rows: list[list[Cell]] = []
    for slice_name, target in targets.items():
        value = float(frame.filter(model=phase, slice=slice_name, metric=str(PRIMARY))["value"][0])
        verdict = "met" if value >= target else f"missed by {target - value:.4f}"
        rows.append(
            [f"{PRIMARY}, {slice_name}", f">= {target}", _figure(frame, phase, slice_name, str(PRIMARY)), verdict]
        )
    for row in _against(differences, phase).iter_rows(named=True):
        measured = interval(row["difference"], row["low"], row["high"])
        verdict = "met" if row["low"] > 0 else f"missed: the interval reaches {row['low']:.4f}"
        rows.append([f"{PRIMARY} minus that of {row['model']}, {ALL}", "interval above 0", measured, verdict])
    for surface, error, _ in errors(reliability).iter_rows():
        verdict = "met" if error <= MAX_ECE else f"missed by {error - MAX_ECE:.4f}"
        rows.append(
            [f"expected calibration error of the chances shown, {surface}", f"<= {MAX_ECE}", round(error, 4), verdict]
        )
    return Table("Targets", ["figure", "target", "measured", "verdict"], rows)


def _against(differences: pl.DataFrame, phase: str) -> pl.DataFrame:
    return differences.filter(pl.col("model").is_in(MUST_EXCEED.get(phase, ())), slice=ALL)


def reliability_table(reliability: pl.DataFrame, phase: str) -> Table:
    """What the phase claimed of the items it showed on each surface, and how many of them were bought."""
    rows: list[list[Cell]] = [
        [row["surface"], row["chance"], row["n"], round(row["claimed"], 4), round(row["bought"], 4)]
        for row in reliability.iter_rows(named=True)
    ]
    columns = ["surface", "chance", "items shown", "claimed", "bought"]
    return Table(f"Chances that {phase} claims for its first {K}", columns, rows)


def decision_tables(tradeoffs: Mapping[str, Sequence[Mapping[str, Any]]], params: Mapping[str, Any]) -> list[Table]:
    """The curves of a bundle's manifest as tables, with what was chosen; none of a phase that has none."""
    if not tradeoffs:
        return []
    thresholds = threshold_table(tradeoffs["thresholds"], params["threshold"])
    return [thresholds, objective_table(tradeoffs["objectives"], params["value_weight"])]


def threshold_table(curve: Sequence[Mapping[str, Any]], chosen: float) -> Table:
    """What phase 3 gains by threshold, see `recsys.tradeoffs.threshold_curve`."""
    rows: list[list[Cell]] = [
        [
            row["threshold"],
            f"{row['enhanced']:.1%}",
            *(_mean(row, name, digits) for name, digits in (("purchases", 3), ("revenue_cents", 1), ("gain", 3))),
            row["threshold"] == chosen,
        ]
        for row in curve
    ]
    columns = ["threshold", f"places of {K} enhanced", "purchases", "revenue, cents", "gain", "chosen"]
    title = "What an answer gains over the simple one, by threshold (validation window)"
    none_is = chosen not in [row["threshold"] for row in curve]
    note = (
        "None is chosen: the gain of none is surely above 0, so the simple answer keeps all places." if none_is else ""
    )
    return Table(title, columns, rows, note)


def objective_table(curve: Sequence[Mapping[str, Any]], chosen: float) -> Table:
    """What the ranker brings by the weight of prices, see `recsys.tradeoffs.objective_curve`."""
    rows: list[list[Cell]] = [
        [row["value_weight"], _mean(row, "purchases", 3), _mean(row, "revenue_cents", 1), row["value_weight"] == chosen]
        for row in curve
    ]
    columns = ["weight of prices", "purchases per answer", "revenue per answer, cents", "chosen"]
    return Table(f"Purchases against revenue in the ranker's first {K} (validation window)", columns, rows)


def _mean(row: Mapping[str, Any], name: str, digits: int) -> str:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"], digits)


def write_phase_report(
    phase: str,
    command: str,
    frame: pl.DataFrame,
    differences: pl.DataFrame,
    reliability: pl.DataFrame,
    decisions: Sequence[Table],
    *,
    shop: str,
) -> None:
    """Write `reports/<phase>.json` for the shop's default data; another shop's figures stay in MLflow.

    `decisions`: what was read off on validation.
    """
    targets = target_table(frame, differences, reliability, phase, shop)
    if targets is None:
        return
    slices = [slice_table(frame, name) for name in (ALL, NEW, COLD) if _size(frame, name)]
    rest = [
        history_table(frame),
        reliability_table(reliability, phase),
        *decisions,
        difference_table(differences, phase),
    ]
    write_report(phase, command, [targets, *slices, *rest])


def print_results(frame: pl.DataFrame, reliability: pl.DataFrame, console: Console) -> None:
    """The main table on the terminal, and how far chances are from the truth."""
    table = RichTable(title=f"Test window, {PRIMARY} with 95% intervals")
    slices = [name for name in (ALL, NEW, COLD) if _size(frame, name)]
    for column in ("model", *slices):
        table.add_column(column)
    for model in _models(frame):
        table.add_row(model, *(_figure(frame, model, name, str(PRIMARY)) or "–" for name in slices))
    console.print(table)
    found = errors(reliability)
    if len(found):
        of_surfaces = (f"{surface} {error:.4f}" for surface, error, _ in found.iter_rows())
        console.print(f"expected calibration error of the chances shown: {', '.join(of_surfaces)}")
