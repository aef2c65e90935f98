"""The whole system held against shoppers whose truth is known."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.options import DEFAULT_DATA_DIR, DataDir, console

app = typer.Typer()


@app.command("case-study")
def case_study(
    keep: Annotated[Path | None, typer.Option(help="Keep bundles, log and tables in this folder.")] = None,
    browsing: Annotated[
        float | None,
        typer.Option(min=0, help="Visits without a purchase for each with one; the simulator's own by default."),
    ] = None,
    seed: int = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Five arms in the real service against simulated shoppers (docs/simulator.md); writes reports/."""
    from recsys.reality.study import run
    from recsys.reality.study_tables import lifts_table, slices_table, steps_table
    from recsys.reports import show, write_report
    from recsys.simulation.constants import Constants

    constants = Constants.read()
    if browsing is not None:
        constants = replace(constants, traffic=replace(constants.traffic, browsing_visits=browsing))
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run(data_dir, folder, constants, seed, console)
    tables = [lifts_table(outcome), steps_table(outcome), slices_table(outcome)]
    for table in tables:
        show(table, console)
    if outcome.readout.reason:
        console.print(f"[red]no readout:[/red] {outcome.readout.reason}")
    console.print(f"written: {write_report('case_study', 'make case-study', tables)}")
