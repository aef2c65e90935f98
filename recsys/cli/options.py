"""What commands share: options, the terminal, the service's settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from recsys.errors import UserError

if TYPE_CHECKING:
    from service.settings import Settings

WIDE: Final = 160
"""Columns of what is written to a file or a pipe, where no terminal says how wide it is: no table is cut."""
console = Console(width=None if sys.stdout.isatty() else WIDE)

DataDir = Annotated[Path, typer.Option("--data-dir", envvar="RECSYS_DATA_DIR", help="Where this shop's files live.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar=["RECSYS_DATABASE_URL", "DATABASE_URL"],
        show_envvar=True,
        help="postgresql://user@host/name; a SQLite file in the data directory by default.",
    ),
]
Phase = Annotated[
    int,
    typer.Option(
        min=1, max=3, help="1: collaborative filtering; 2: and content, for new items; 3: the ensemble, with a ranker."
    ),
]
DEFAULT_DATA_DIR = Path("data")


def settings(**given: Any) -> Settings:
    """The environment's settings, and what was given on the command line.

    Raises:
        UserError: one of them cannot be.
    """
    from pydantic import ValidationError

    from service.schemas import in_words
    from service.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise UserError(f"the settings (docs/api.md) cannot be used: {in_words(error)}") from None


def parse_share(text: str) -> float:
    """A share, written as `5%` or `0.05`.

    Raises:
        UserError: it is neither.
    """
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise UserError(f"{text!r} is no share: write it as 5% or 0.05") from error
