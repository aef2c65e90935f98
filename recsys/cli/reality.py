"""The whole system held against shoppers whose truth is known."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from recsys.cli.options import DEFAULT_DATA_DIR, DataDir, console

PICTURE: Final = Path("docs/img/sensitivity.png")
MEMORY: Final = Path("/dev/shm")
WEEKS_VISITS: Final = 12_000
"""Of each way to run the weeks."""

app = typer.Typer()


@app.command("case-study")
def case_study(
    visits: Annotated[int, typer.Option(min=1_000, help="Simulated visits of the experiment, about.")] = 60_000,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the bundles in this folder, and use those that are there.")
    ] = None,
    weeks: Annotated[
        int,
        typer.Option(min=0, max=4, help="Instead: so many weeks in which phase 1 learns from its own log, three ways."),
    ] = 0,
    seed: int = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Arms in the real service against simulated shoppers (docs/simulator.md); writes reports/."""
    if weeks:
        _weeks(data_dir, weeks, min(visits, WEEKS_VISITS), seed)
        return
    from recsys.reality.outcome import run
    from recsys.reality.sensitivity_plot import plot_sensitivity
    from recsys.reality.study_tables import detail_tables, main_tables
    from recsys.reports import show, write_report
    from recsys.simulation.constants import Constants

    constants = Constants.read()
    with _folder(keep) as folder, _scratch() as scratch:
        outcome = run(data_dir, folder, scratch, constants, visits, seed, console)
    found, details = main_tables(outcome), detail_tables(outcome)
    for table in (*found, *details):
        show(table, console)
    if outcome.readout.reason:
        console.print(f"[red]no readout:[/red] {outcome.readout.reason}")
    plot_sensitivity(outcome.moved, constants, PICTURE)
    command = f"recsys case-study --visits {visits}" + (f" --seed {seed}" if seed else "")
    for name, own in (("case_study", found), ("case_study_details", details)):
        console.print(f"written: {write_report(name, command, own)}")
    console.print(f"written: {PICTURE}")


def _weeks(data_dir: Path, weeks: int, visits: int, seed: int) -> None:
    from recsys.reality.weeks import run_weeks
    from recsys.reports import show, write_report
    from recsys.simulation.constants import Constants

    with _scratch() as folder:
        table = run_weeks(data_dir, folder, Constants.read(), weeks, visits, seed, console)
    show(table, console)
    console.print(f"written: {write_report('case_study_weeks', f'recsys case-study --weeks {weeks}', [table])}")


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for what is simulated, in memory where the system has such a place: a simulated shop's database need not survive a power cut."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as temporary:
        yield Path(temporary)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """A folder to work in, which is gone afterwards unless it is to be kept."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
