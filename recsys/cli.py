"""The command line, `recsys`: one command for each step of the chain, in the order of the chain.

The composition root: it alone imports pipelines, training and service, each when its command runs, so that
a serving install needs no training library and `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.text import Text

from recsys.errors import UserError

app = typer.Typer(
    name="recsys",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Product recommendations for a shop, from its data to its pages.\n\n"
    "The steps, in order: ingest, tables, (doctor), train, evaluate, publish, serve; rollback undoes a publish.",
)
rules_app = typer.Typer(no_args_is_help=True, help="Business rules: what may, must and must not be shown.")
app.add_typer(rules_app, name="rules")
console = Console(stderr=False)

DataDir = Annotated[Path, typer.Option("--data-dir", envvar="RECSYS_DATA_DIR", help="Where this shop's files live.")]
Phase = Annotated[
    int,
    typer.Option(
        min=1, max=3, help="1: collaborative filtering; 2: and content, for new items; 3: the ensemble, with a ranker."
    ),
]
DEFAULT_DATA_DIR = Path("data")


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
def tables(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Build the tables from all that was ingested, and from what the service was told: events and catalogue changes."""
    from pipelines.ingest import ingest_catalogue_log, ingest_log
    from pipelines.run import build_tables

    ingest_log(data_dir, console)
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
    force: Annotated[bool, typer.Option(help="Train again though nothing has changed.")] = False,
    publish_it: Annotated[
        bool, typer.Option("--publish", help="Publish the bundle too, if it is new or none is live.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Train a phase, evaluate it at its cut, log it in MLflow, and write its bundle."""
    from recsys.publish import live_version
    from recsys.train import train as run

    result = run(phase, data_dir, until=until, search_seconds=search_seconds, seed=seed, force=force, console=console)
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
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Verify and smoke-test a bundle, then make it the live one."""
    from recsys.publish import publish as run

    live = run(data_dir / "bundles", version, reason=reason)
    console.print(f"live: [bold]{live}[/bold]")
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
    """Point MLflow's alias `champion` at the live version, where MLflow is installed."""
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
) -> None:
    """Serve the live bundle: API and storefront. Settings: docs/api.md."""
    from service.server import serve as run
    from service.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "workers": workers, "data_dir": data_dir}
    run(Settings(**{name: value for name, value in given.items() if value is not None}))


@rules_app.command("check")
def check_rules(
    file: Annotated[Path, typer.Argument(help="A rule file, docs/rules.md.")],
    bundle: Annotated[str | None, typer.Option(help="A bundle's version; the live one by default.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Requests to try the rules on, the latest of the log.")] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Validate a rule file, try it on logged requests, and say what each rule changes and costs."""
    from recsys.rules.reading import read_rules
    from service.dry_run import dry_run, predictor_of
    from service.dry_run_tables import as_json as to_json
    from service.dry_run_tables import print_dry_run
    from service.replay import open_live, requests_for

    rules = read_rules(file)
    live = open_live(data_dir, bundle)
    requests, requests_from = requests_for(data_dir, live, limit)
    run = dry_run(live, rules, requests, predictor_of(live.bundle))
    if as_json:
        typer.echo(orjson.dumps(to_json(run, requests_from), option=orjson.OPT_INDENT_2).decode())
    else:
        print_dry_run(run, requests_from, str(live.bundle.manifest["currency"]), console)


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


def main() -> None:
    """Run the command line; an error that a user can act on prints as one line, not as a traceback."""
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("recsys", "pipelines", "service"):
            raise  # not a missing library but a mistake of ours
        _fail(
            f"{error.name} is not installed; training and pipelines need: pip install '.[train]', serving: '.[serve]'"
        )


def _fail(message: str) -> None:
    Console(stderr=True).print(Text("error: ", style="red") + Text(message), soft_wrap=True)
    sys.exit(1)
