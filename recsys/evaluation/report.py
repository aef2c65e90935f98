"""Results as people read them: a table on the terminal, and `reports/<phase>.json` for the documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl
from rich.console import Console
from rich.table import Table as RichTable

from recsys.evaluation.evaluate import ALL, BOUGHT, CLAIMED, COLD, ECE, HISTORY_SLICES, NEW
from recsys.evaluation.metrics import METRICS, PRIMARY, K
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


def target_table(frame: pl.DataFrame, differences: pl.DataFrame, phase: str, shop: str) -> Table | None:
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
    for row in frame.filter(model=phase, metric=ECE).iter_rows(named=True):
        verdict = "met" if row["value"] <= MAX_ECE else f"missed by {row['value'] - MAX_ECE:.4f}"
        rows.append(
            ["expected calibration error of the chances shown", f"<= {MAX_ECE}", round(row["value"], 4), verdict]
        )
    return Table("Targets", ["figure", "target", "measured", "verdict"], rows)


def _against(differences: pl.DataFrame, phase: str) -> pl.DataFrame:
    return differences.filter(pl.col("model").is_in(MUST_EXCEED.get(phase, ())), slice=ALL)


def reliability_table(frame: pl.DataFrame, phase: str) -> Table | None:
    """What the phase claimed of the items it showed, and how many of them were bought; None where it claims nothing."""
    claimed = frame.filter(model=phase, metric=CLAIMED)
    bought = frame.filter(model=phase, metric=BOUGHT)
    if not len(claimed):
        return None
    rows: list[list[Cell]] = [
        [row["slice"].removeprefix("chance "), row["n"], round(row["value"], 4), round(share, 4)]
        for row, share in zip(claimed.iter_rows(named=True), bought["value"], strict=True)
    ]
    return Table(f"Chances that {phase} claims for its first {K}", ["chance", "items shown", "claimed", "bought"], rows)


def write_phase_report(phase: str, command: str, frame: pl.DataFrame, differences: pl.DataFrame, *, shop: str) -> None:
    """Write `reports/<phase>.json` for the shop's default data; another shop's figures stay in MLflow."""
    targets = target_table(frame, differences, phase, shop)
    if targets is None:
        return
    slices = [slice_table(frame, name) for name in (ALL, NEW, COLD) if _size(frame, name)]
    chances = [table for table in [reliability_table(frame, phase)] if table is not None]
    rest = [history_table(frame), *chances, difference_table(differences, phase)]
    write_report(phase, command, [targets, *slices, *rest])


def print_results(frame: pl.DataFrame, console: Console) -> None:
    """The main table on the terminal."""
    table = RichTable(title=f"Test window, {PRIMARY} with 95% intervals")
    slices = [name for name in (ALL, NEW, COLD) if _size(frame, name)]
    for column in ("model", *slices):
        table.add_column(column)
    for model in _models(frame):
        table.add_row(model, *(_figure(frame, model, name, str(PRIMARY)) or "–" for name in slices))
    console.print(table)
