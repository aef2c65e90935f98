"""What a shopper may ask of the shop: what is known of them, and to be deleted; and how long anything is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console

from recsys.cli.files import the_files
from recsys.cli.options import DEFAULT_DATA_DIR, Database, DataDir, console, settings
from recsys.errors import UserError

if TYPE_CHECKING:
    from recsys.privacy.deletions import Receipt
    from service.privacy import Privacy

privacy_app = typer.Typer(no_args_is_help=True, help="Shoppers' data: export, deletion with a receipt, retention.")
User = Annotated[str, typer.Argument(help="A user's id.")]


@privacy_app.command("export")
def export(
    user: User,
    out: Annotated[Path | None, typer.Option(help="Where to write it; the terminal by default.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Write all that is known of a shopper, as JSON lines (docs/privacy.md)."""
    from pipelines.forgetting import rows_of
    from recsys.bundle import BundleError, load_bundle
    from recsys.privacy.deletions import Order
    from recsys.publish import bundle_versions
    from service.veil import veiled

    with _opened(data_dir, database) as privacy:
        known = []
        for version in reversed(bundle_versions(data_dir / "bundles")):
            try:
                known.append(veiled(load_bundle(data_dir / "bundles" / version), privacy.tombstones))
            except BundleError as error:  # one of an older program, or damaged: nothing answers from it either
                Console(stderr=True).print(f"without bundle {version}: {error}", style="yellow", soft_wrap=True)
        until_now = Order(user, datetime.now(UTC).isoformat())
        files = ({"kind": "row", "file": file, "row": row} for file, row in rows_of(data_dir, until_now))
        found = privacy.export(user, known, files)
    if out is None:
        sys.stdout.buffer.write(found)
        return
    out.write_bytes(found)
    console.print(f"{len(found.splitlines()):,} lines in {out}")


@privacy_app.command("delete")
def delete(user: User, data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Delete a shopper everywhere and print the receipt.

    Broken off, it is gone on with by `recsys privacy resume`, by `recsys tables` and by the service.
    """
    with _opened(data_dir, database) as privacy:
        receipt = privacy.delete(user)
        with the_files(data_dir):
            _print(privacy.deletions.receipt(receipt.receipt))


@privacy_app.command("resume")
def resume(
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Delete again whoever was deleted and is back from before, as from a backup."),
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Go on with deletions that were broken off, and print their receipts."""
    from recsys.store.shoppers import users_of

    with _opened(data_dir, database) as privacy:
        if sweep:
            for user in filter(privacy.tombstones.hides, users_of(privacy.engine)):
                privacy.deletions.again(user)
        pending = privacy.deletions.pending()
        privacy.resume()
        with the_files(data_dir):
            for receipt in pending:
                _print(privacy.deletions.receipt(receipt.receipt))


@privacy_app.command("receipts")
def receipts(
    receipt: Annotated[str | None, typer.Argument(help="One receipt; all by default.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Print receipts as they are now: what was removed where, and the first model that was trained without the shopper."""
    from recsys.privacy.deletions import Deletions
    from recsys.privacy.pseudonyms import Pseudonyms

    deletions = Deletions(data_dir, Pseudonyms(data_dir, settings().privacy_key))
    for one in deletions.receipts() if receipt is None else [deletions.receipt(receipt)]:
        _print(one)


@privacy_app.command("lift")
def lift(user: User, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Let the next `recsys ingest` bring a deleted shopper back from the shop's exports."""
    from pipelines.ingest import forget_sources

    with the_files(data_dir) as (deletions, _):
        lifted = deletions.lift(user, time.time())
        if not lifted:
            raise UserError("there is no deletion of this user that could be lifted")
        forget_sources(data_dir)
    console.print(f"lifted: {', '.join(one.receipt for one in lifted)}; `recsys ingest` reads all exports again")


@privacy_app.command("retain")
def retain(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Delete what has been kept for as long as the settings say, in the database and in files; a job for every night."""
    from pipelines.retention import retain_files
    from service.privacy import periods

    with _opened(data_dir, database) as privacy:
        removed = {f"database/{table}": count for table, count in privacy.retain().items()}
        with the_files(data_dir):
            removed |= retain_files(data_dir, periods(settings(data_dir=data_dir)), datetime.now(UTC))
    for place, count in removed.items():
        console.print(f"{place:<18} {count:>10,}")


@contextmanager
def _opened(data_dir: Path, database: str | None) -> Iterator[Privacy]:
    """The shop's database, Redis (the embedded one is started where it does not run) and deletions.

    Raises:
        UserError: one of them cannot be used.
    """
    from recsys.privacy.deletions import Deletions
    from recsys.privacy.pseudonyms import Pseudonyms
    from recsys.privacy.tombstones import Tombstones
    from recsys.store.database import database_url, opened
    from recsys.store.migrate import upgrade
    from service.embedded_redis import embedded_redis
    from service.privacy import Privacy

    given = settings(data_dir=data_dir, database_url=database)
    pseudonyms = Pseudonyms(data_dir, given.privacy_key)
    tombstones = Tombstones(data_dir, pseudonyms)
    tombstones.check()
    with ExitStack() as stack:
        engine = stack.enter_context(opened(database_url(data_dir, given.database_url)))
        upgrade(engine)
        url = given.redis_url or stack.enter_context(embedded_redis(data_dir / "redis"))
        given = given.model_copy(update={"redis_url": url})
        yield Privacy(engine, Deletions(data_dir, pseudonyms), tombstones, given, time.time)


def _print(receipt: Receipt) -> None:
    typer.echo(orjson.dumps({**asdict(receipt), "pending": receipt.pending}, option=orjson.OPT_INDENT_2).decode())
