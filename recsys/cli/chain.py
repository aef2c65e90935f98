"""The steps of the chain, in their order, and what looks at its results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from recsys.cli.options import DEFAULT_DATA_DIR, Database, DataDir, Phase, console, settings
from recsys.errors import UserError

app = typer.Typer()


@app.command()
def ingest(
    mapping: Annotated[Path | None, typer.Option(help="TOML file that maps a shop's exports.")] = None,
    propose: Annotated[
        list[Path] | None,
        typer.Option(help="An unmapped export; prints a mapping for it. Repeat for several."),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Take a shop's exports in (the default data set without --mapping)."""
    from pipelines.ingest import ingest as run
    from pipelines.propose import propose_mapping

    if propose:
        typer.echo(propose_mapping(propose))
        return
    run(mapping, data_dir, console)


@app.command()
def tables(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Build the tables from all that was ingested, and from what the service was told: events and catalogue changes."""
    from pipelines.ingest import ingest_catalogue_log, ingest_log
    from pipelines.run import build_tables
    from recsys.store.database import database_url

    ingest_log(database_url(data_dir, database), data_dir, console)
    ingest_catalogue_log(data_dir, console)
    build_tables(data_dir, console)


@app.command()
def doctor(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Say what the data supports, what is missing, and how much more is needed."""
    from pipelines.doctor import doctor as examine

    console.print(examine(data_dir))


@app.command()
def train(
    phase: Phase = 1,
    until: Annotated[
        str | None, typer.Option(help="YYYY-MM-DD: learn only from what happened before this day (UTC).")
    ] = None,
    search_seconds: Annotated[float, typer.Option(min=0, help="Time box of the hyper-parameter search.")] = 60.0,
    seed: int = 0,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What home of phase 3 is ranked by: purchases (the default), revenue, balanced between the two, or clicks."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Train again though nothing has changed.")] = False,
    publish_it: Annotated[
        bool, typer.Option("--publish", help="Publish the bundle too, if it is new or none is live.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Train a phase, evaluate it at its cut, log it in MLflow, and write its bundle."""
    from recsys.publish import live_version
    from recsys.train import train as run

    result = run(
        phase,
        data_dir,
        until=until,
        search_seconds=search_seconds,
        seed=seed,
        objective=objective,
        force=force,
        console=console,
    )
    # A bundle that was there before stays where a rollback put it.
    if publish_it and (result.trained or live_version(data_dir / "bundles") is None):
        publish(result.version, reason="trained", data_dir=data_dir)


@app.command()
def evaluate(phase: Phase = 1, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Evaluate a phase's chosen configuration at its cut, beside every baseline; writes reports/."""
    from recsys.train import evaluate_phase

    evaluate_phase(phase, data_dir, console=console)


@app.command()
def publish(
    version: Annotated[str | None, typer.Argument(help="A bundle's version; the newest by default.")] = None,
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "",
    evidence: Annotated[
        Path | None, typer.Option(help="An off-policy comparison with the live bundle, docs/offpolicy.md.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How much worse a slice or the estimate may be, as a share; 0.05 by default."),
    ] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="Only for arms of experiments; what is live stays live. Needs a version.")
    ] = False,
    force: Annotated[
        str | None, typer.Option(help="Publish although the gate refuses; the reason is kept in the ledger.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Verify and smoke-test a bundle, then make it the live one, unless it is worse than the one that is."""
    from recsys.experiments.gate import DEFAULT, Tolerances, read_evidence
    from recsys.publish import publish as run
    from recsys.publish import publish_beside, read_ledger

    bundles = data_dir / "bundles"
    if beside:
        if version is None:
            raise UserError("say which bundle is to serve beside the live one: recsys publish VERSION --beside")
        console.print(f"beside the live bundle: [bold]{publish_beside(bundles, version, reason=reason)}[/bold]")
        return
    live = run(
        bundles,
        version,
        reason=reason,
        force=force,
        evidence=None if evidence is None else read_evidence(evidence),
        tolerances=DEFAULT if tolerance is None else Tolerances(tolerance, tolerance),
    )
    entry = read_ledger(bundles)[-1]
    for line in entry.gate:
        console.print(Text(f"gate: {line}"), soft_wrap=True)
    console.print(f"live: [bold]{live}[/bold]" + (" (forced)" if entry.forced else ""))
    _follow_in_registry(data_dir, live)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make the bundle live again that was so before."""
    from recsys.publish import rollback as run

    live = run(data_dir / "bundles", reason=reason)
    console.print(f"live: [bold]{live}[/bold]")
    _follow_in_registry(data_dir, live)


def _follow_in_registry(data_dir: Path, version: str) -> None:
    """Point MLflow's alias `champion` at the live version, where MLflow is installed and has ever been told of a model."""
    if "MLFLOW_TRACKING_URI" not in os.environ and not (data_dir / "mlflow").exists():
        return
    try:
        from recsys.tracking import set_champion
    except ModuleNotFoundError as error:
        console.print(f"MLflow's alias 'champion' not moved: {error.name} is not installed here")
        return
    set_champion(data_dir, version)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Serve the live bundle: API and storefront. Settings: docs/api.md."""
    from service.server import serve as run

    run(settings(host=host, port=port, workers=workers, data_dir=data_dir, database_url=database))


@app.command()
def mlflow(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Open the comparison of runs and phases in MLflow."""
    from recsys.tracking import open_ui

    open_ui(data_dir, port)


@app.command()
def docs(
    documents: Annotated[
        list[Path] | None, typer.Argument(help="Markdown files; README.md and those in docs by default.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Fail where a document is out of date; write nothing.")] = False,
) -> None:
    """Bring the tables in documents up to date with reports/."""
    from recsys.reports import render

    for document in documents or [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        text = document.read_text()
        rendered = render(text)
        if check and rendered != text:
            raise UserError(f"{document} is out of date: run `recsys docs`")
        if rendered != text:
            document.write_text(rendered)
