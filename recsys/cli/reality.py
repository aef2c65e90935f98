"""The whole system held against shoppers whose truth is known."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

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
        Path | None,
        typer.Option(file_okay=False, help="Keep the bundles in this folder, and use those that are there."),
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


@app.command("reality-check")
def reality_check(
    visits: Annotated[
        int,
        typer.Option(
            min=4_000,
            help="Simulated visits, spread over the arms' worlds and an experiment; a month has about 39,000.",
        ),
    ] = 40_000,
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="The page; its JSON lies beside it, and the decision report below.")
    ] = Path("reports/reality_check.html"),
    runbook: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Whose steps are carried out.")] = Path(
        "docs/runbook.md"
    ),
    visits_per_year: Annotated[float, typer.Option(min=1, help="Of the shop that money is reckoned for.")] = 10_000_000,
    peak: Annotated[float, typer.Option(min=1, help="So many times the mean traffic is paid for.")] = 10.0,
    core_hour: Annotated[float, typer.Option(min=0, help="USD for a core for an hour.")] = 0.04048,
    gib_hour: Annotated[float, typer.Option(min=0, help="USD for a GiB of memory for an hour.")] = 0.004445,
    keep: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Work in this folder; bundles that a run or a case study left there serve again."
        ),
    ] = None,
    seed: int = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """The five questions, answered by measurement: a degraded model, no model, a runbook and a rollback drilled, a decision."""
    from recsys.errors import UserError
    from recsys.reality.check import Options, answers
    from recsys.reality.check import reality_check as run
    from recsys.reality.money import Rates, Shop
    from recsys.reality.page import write_page

    options = Options(
        visits=visits,
        seed=seed,
        runbook=runbook,
        shop=Shop(visits_per_year, peak),
        rates=Rates(core_hour, gib_hour),
    )
    with _folder(keep) as folder:
        check = run(data_dir, folder, out, options, console)
    for question, answer in answers(check).items():
        console.print(f"[bold]{question}[/bold]")
        console.print(Text(f"  {answer}"), soft_wrap=True)
    page, data = write_page(out, check)
    console.print(f"written: {page} and {data}")
    if check.failed_steps:
        raise UserError(f"steps of {runbook} failed: {', '.join(step.title for step in check.failed_steps)}")


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
