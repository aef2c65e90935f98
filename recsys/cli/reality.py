"""The whole system held against shoppers whose truth is known."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

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


@app.command("reality-check")
def reality_check(
    visits: Annotated[int, typer.Option(min=100, help="Simulated visits, spread over the arms.")] = 40_000,
    out: Annotated[Path, typer.Option(help="The page; its JSON lies beside it, and the decision report below.")] = Path(
        "reports/reality_check.html"
    ),
    runbook: Annotated[Path, typer.Option(help="Whose steps are carried out.")] = Path("docs/runbook.md"),
    visits_per_year: Annotated[float, typer.Option(min=1, help="Of the shop that money is reckoned for.")] = 10_000_000,
    peak: Annotated[float, typer.Option(min=1, help="So many times the mean traffic is paid for.")] = 10.0,
    core_hour: Annotated[float, typer.Option(min=0, help="USD for a core for an hour.")] = 0.04048,
    gib_hour: Annotated[float, typer.Option(min=0, help="USD for a GiB of memory for an hour.")] = 0.004445,
    keep: Annotated[
        Path | None,
        typer.Option(help="Work in this folder; bundles that a run or a case study left there serve again."),
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

    options = Options(visits, seed, runbook, Shop(visits_per_year, peak), Rates(core_hour, gib_hour))
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        check = run(data_dir, folder, out, options, console)
    for question, answer in answers(check).items():
        console.print(f"[bold]{question}[/bold]")
        console.print(Text(f"  {answer}"), soft_wrap=True)
    page, data = write_page(out, check)
    console.print(f"written: {page} and {data}")
    if check.failed_steps:
        raise UserError(f"steps of {runbook} failed: {', '.join(step.title for step in check.failed_steps)}")
