"""What is live, what was, and why an answer was as it was."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from recsys.cli.options import DEFAULT_DATA_DIR, Database, DataDir, console, settings
from recsys.errors import UserError

app = typer.Typer()

BRIEFLY: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""How MLflow's client asks, unless the environment says otherwise."""
Reason = Annotated[str, typer.Option(help="Kept in the ledger.")]


class Shared(StrEnum):
    """What has a share of the traffic beside the live bundle."""

    CANARY = "canary"
    SHADOW = "shadow"


@app.command()
def promote(reason: Reason = "", data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Make the canary live for everybody."""
    from recsys.publish import promote as run

    live = run(data_dir / "bundles", reason=reason)
    console.print(f"live: [bold]{live}[/bold]")
    follow_in_registry(data_dir, live)


@app.command()
def rollback(
    reason: Reason = "",
    undo: Annotated[
        bool, typer.Option("--undo", help="Take the last rollback back: what it withdrew is live again.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Withdraw what came last: the canary where one is running, else the live bundle, for the one before it."""
    from recsys.ledger import Action, read_ledger
    from recsys.publish import rollback as run

    bundles = data_dir / "bundles"
    live = run(bundles, reason=reason, undo=undo)
    entry = read_ledger(bundles)[-1]
    if entry.action == Action.CANARY_ENDED:
        console.print(f"canary ended: [bold]{entry.version}[/bold]; live, as before: [bold]{live}[/bold]")
        return
    console.print(f"live: [bold]{live}[/bold]")
    follow_in_registry(data_dir, live)


@app.command()
def withdraw(
    what: Annotated[Shared, typer.Argument(help="The canary or the shadow.")],
    reason: Reason = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """End the canary or the shadow; what is live stays live."""
    from recsys.publish import end

    ended = end(data_dir / "bundles", what.value, reason=reason)
    if ended is None:
        raise UserError(f"no {what.value} is running")
    console.print(f"{what.value} ended: [bold]{ended}[/bold]")


@app.command()
def ledger(
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="The latest so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the entries as JSON lines.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Print what was live when, by whom and why."""
    from dataclasses import asdict

    import orjson

    from recsys.ledger import read_ledger

    entries = read_ledger(data_dir / "bundles")[-number:]
    if as_json:
        for entry in entries:
            typer.echo(orjson.dumps(asdict(entry)).decode())
        return
    table = Table("at", "action", "version", "share", "live before", "by", "reason")
    for entry in entries:
        share = "" if entry.share is None else f"{entry.share:.4g}"
        why = [entry.reason, f"forced: {entry.forced}" if entry.forced else "", *entry.gate]
        said = "\n".join(filter(None, why))
        table.add_row(entry.at, entry.action, entry.version, share, entry.previous or "", entry.by, said)
    console.print(table)


@app.command()
def replay(
    request_id: Annotated[str, typer.Argument(help="Of the answer, as it said.")],
    item: Annotated[list[str] | None, typer.Option(help="Say why this item was not shown. Repeat for several.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Candidates to print.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Make an answer of the log again: with its candidates, their scores, the rules, and why an item was not shown."""
    import orjson

    from recsys.store.database import database_url, exists, opened
    from recsys.store.migrate import version
    from recsys.store.schema import HEAD
    from service.retrace import retrace
    from service.retrace_tables import as_json as to_json
    from service.retrace_tables import print_retraced

    served = settings(data_dir=data_dir, database_url=database)
    url = database_url(data_dir, database)
    with opened(url) as engine:
        if not exists(url) or version(engine) != HEAD:
            raise UserError("there is no log yet, or one of another version: `recsys serve` makes it")
        found = retrace(data_dir, engine, request_id, rules=served.rules, plan=served.experiments)
    if as_json:
        typer.echo(orjson.dumps(to_json(found, number, item or ()), option=orjson.OPT_INDENT_2).decode())
    else:
        print_retraced(found, number, item or (), console)


@app.command()
def shadow(
    version: Annotated[
        str | None, typer.Argument(help="A bundle's version; the shadow that is running by default.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Sum up how a shadow's answers differ from those that were shown."""
    from recsys.publish import traffic_share
    from service.shadow_table import print_shadow

    running = traffic_share(data_dir / "bundles", "shadow")
    version = version or (None if running is None else running.version)
    if version is None:
        raise UserError(
            "no shadow is running: start one with `recsys publish VERSION --shadow 10%`, or name one that ran"
        )
    print_shadow(data_dir / "shadow" / f"{version}.jsonl", console)


def follow_in_registry(data_dir: Path, version: str) -> None:
    """Point MLflow's alias `champion` at the live version, where MLflow is installed and has anything.

    The bundle is live already: a registry that does not answer is asked for some seconds, then the alias stays where it was, and that is said.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ and not (data_dir / "mlflow").exists():
        return
    for name, value in BRIEFLY.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.exceptions import MlflowException

        from recsys.tracking import set_champion
    except ModuleNotFoundError as error:
        console.print(f"MLflow's alias 'champion' not moved: {error.name} is not installed here")
        return
    try:
        set_champion(data_dir, version)
    except MlflowException as error:
        text = Text(f"MLflow's alias 'champion' not moved: {str(error).splitlines()[0]}", style="yellow")
        console.print(text, soft_wrap=True)
