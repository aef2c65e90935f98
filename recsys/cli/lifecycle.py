"""What is live, what was, and why an answer was as it was."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from recsys.cli.options import DEFAULT_DATA_DIR, DataDir, console
from recsys.errors import UserError

app = typer.Typer()

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


def follow_in_registry(data_dir: Path, version: str) -> None:
    """Point MLflow's alias `champion` at the live version, where MLflow is installed."""
    try:
        from recsys.tracking import set_champion
    except ModuleNotFoundError as error:
        console.print(f"MLflow's alias 'champion' not moved: {error.name} is not installed here")
        return
    set_champion(data_dir, version)
