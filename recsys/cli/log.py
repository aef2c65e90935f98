"""The database, and the events in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from recsys.cli.options import DEFAULT_DATA_DIR, Database, DataDir, console, settings

db_app = typer.Typer(no_args_is_help=True, help="The database of events and exposures.")
events_app = typer.Typer(no_args_is_help=True, help="Events: take a file in, see what became of them.")


@db_app.command("upgrade")
def upgrade_database(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Bring the database's tables up to date; `recsys serve` does so too."""
    from recsys.store.database import database_url, opened
    from recsys.store.migrate import upgrade

    with opened(database_url(data_dir, database)) as engine:
        console.print("upgraded" if upgrade(engine) else "up to date")


@db_app.command("status")
def database_status(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Say which database is used, its version, and how much it holds."""
    from recsys.store.database import database_url, exists, opened
    from recsys.store.migrate import version
    from recsys.store.reading import count
    from recsys.store.schema import HEAD, METADATA

    url = database_url(data_dir, database)
    typer.echo(url.render_as_string(hide_password=True))
    with opened(url) as engine:
        found = version(engine) if exists(url) else None
        if found != HEAD:
            typer.echo(f"version {found or 'none'}, this program's is {HEAD}: run `recsys db upgrade`")
            return
        typer.echo(f"version {found}, up to date")
        for table in METADATA.sorted_tables:
            typer.echo(f"{table.name:<10} {count(engine, table):>12,} rows")


@db_app.command("import-log")
def import_old_log(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Take logs of older versions (log/*.jsonl) into the database, once; `recsys tables` does so too."""
    from recsys.store.database import database_url, opened
    from recsys.store.migrate import upgrade
    from recsys.store.old_log import import_log

    with opened(database_url(data_dir, database)) as engine:
        upgrade(engine)
        done = import_log(engine, data_dir)
    console.print(
        f"{done.events:,} events, {done.exposures:,} exposures; {done.known:,} known already, {done.unreadable:,} unreadable"
    )


@events_app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="JSON lines, each as POST /events takes it: ours or GA4's.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Take a file of events in, judged as the API judges them; what was sent before counts once."""
    from service.importing import import_events

    done = import_events(settings(data_dir=data_dir, database_url=database), file)
    console.print(", ".join(f"{count:,} {verdict}" for verdict, count in sorted(done.verdicts.items())) or "no events")
    for example in done.examples:
        console.print(Text(f"  rejected, {example}"), soft_wrap=True)


@events_app.command("tail")
def tail_events(
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many.")] = 20,
    follow: Annotated[bool, typer.Option(help="Go on with those that come; Ctrl-C ends it.")] = False,
    rejected: Annotated[bool, typer.Option(help="Only what was rejected.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Print the latest events with their verdicts and reasons."""
    from service.importing import tail

    served = settings(data_dir=data_dir, database_url=database)
    for line in tail(served, number, follow=follow, rejected=rejected):
        typer.echo(line)
