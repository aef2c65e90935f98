"""A private PostgreSQL: a cluster of its own in a temporary folder, reached through a Unix socket, gone with the block."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

START_SECONDS: Final = 60
UNPRIVILEGED: Final = ("postgres", "nobody")
"""Whom it runs as where we are root, whom PostgreSQL refuses."""


def find_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps it off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def private_cluster() -> Iterator[str]:
    """Start one and give the URL of its server, without a database's name at the end.

    Raises:
        RuntimeError: PostgreSQL is not installed or does not start.
    """
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    user = _user()
    with tempfile.TemporaryDirectory(prefix="recsys-pg-", dir="/tmp") as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        data, log = folder / "data", folder / "log"
        command = [binaries / "initdb", "-D", data, "-U", "recsys", "--auth=trust", "--no-locale", "--encoding=UTF8"]
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with log.open("wb") as output:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
                user=user,
                cwd=folder,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        try:
            _wait(server, folder, log)
            yield f"postgresql://recsys@/%s?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # it ends open connections, and then itself
            server.wait(timeout=30)


@contextmanager
def database(cluster: str, name: str) -> Iterator[str]:
    """A new database of a cluster, dropped with the block; its URL."""
    with psycopg.connect(cluster % "postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield cluster % name
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _user() -> str | None:
    if os.getuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(user for user in UNPRIVILEGED if user in known)


def _wait(server: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(f"postgresql://recsys@/postgres?host={folder}").close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start:\n{log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
