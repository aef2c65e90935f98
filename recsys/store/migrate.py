"""Bringing a database's tables up to date, with Alembic, from the migrations that the package carries."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DatabaseError

from recsys.errors import UserError
from recsys.store.database import reading, writing
from recsys.store.schema import HEAD

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 7_282_501
"""PostgreSQL's advisory lock of whoever migrates."""
_ONE_AT_A_TIME: Final = threading.Lock()
"""Alembic keeps what it works on in globals of its module."""


def version(engine: Engine) -> str | None:
    """The migration that the database is at, None before the first.

    Raises:
        UserError: the database cannot be reached, or the file is none.
    """
    try:
        with reading(engine) as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except DatabaseError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise UserError(f"the database {where} cannot be used: {error.orig}") from error


def upgrade(engine: Engine) -> bool:
    """Apply the migrations that are missing; whether any was. Two processes that try at once wait for each other.

    Raises:
        UserError: the database cannot be reached, or a newer version of the program has written it.
    """
    if version(engine) == HEAD:
        return False
    # Alembic is loaded only where there is something to do: a worker that has served for a week needs no migrations.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with _ONE_AT_A_TIME, writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise UserError(f"the database is of another version of this program: {error}") from error
    return True
