"""API keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.options import DEFAULT_DATA_DIR, DataDir, console, settings

keys_app = typer.Typer(no_args_is_help=True, help="API keys: who may ask the service for what.")
File = Annotated[
    Path | None,
    typer.Option("--keys", envvar="RECSYS_KEYS", help="Where the keys are kept; keys.json in the data directory."),
]
Name = Annotated[str, typer.Option(help="Lower-case letters, digits and hyphens: who has it.")]


@keys_app.command("create")
def create(
    role: Annotated[
        str,
        typer.Option(help="widget: in the shop's pages, public; server: and catalogue, verdicts; admin: everything."),
    ],
    name: Name,
    limit: Annotated[
        str | None, typer.Option(help="How often it may be used, as 6000/minute; as often as you like.")
    ] = None,
    file: File = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a key and print it, once: only its hash is kept. From the first key on, the service is closed to who has none."""
    from recsys.errors import UserError
    from service.keys import Role, create_key, keys_path

    if role not in list(Role):
        raise UserError(f"there is no role {role!r}: choose one of {', '.join(Role)}")
    path = keys_path(settings(data_dir=data_dir, keys=file))
    typer.echo(create_key(path, name, Role(role), datetime.now(UTC).replace(microsecond=0), limit))


@keys_app.command("list")
def list_keys(file: File = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List the keys; what a client shows is not kept, so it cannot be."""
    from service.keys import keys_path, read_keys

    path = keys_path(settings(data_dir=data_dir, keys=file))
    if not path.exists():
        console.print("no keys: the service is open to everybody who reaches it")
        return
    for key in read_keys(path).keys:
        typer.echo(f"{key.name:<24} {key.role:<8} {key.created_at:%Y-%m-%d %H:%M}  {key.limit or ''}".rstrip())


@keys_app.command("revoke")
def revoke(name: Name, file: File = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Take a key away; a running service knows within two looks (RECSYS_RELOAD_SECONDS)."""
    from service.keys import keys_path, revoke_key

    revoke_key(keys_path(settings(data_dir=data_dir, keys=file)), name)
    console.print(f"revoked: {name}")
