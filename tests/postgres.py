"""A private PostgreSQL: a cluster of its own in a temporary folder, reached through a Unix socket, gone with the block."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class Cluster:
    """A server of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        """Make it; it does not run yet.

        Raises:
            RuntimeError: PostgreSQL is not installed.
        """
        binaries = find_binaries()
        if binaries is None:
            raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
        self._folder, self._binaries, self._user = folder, binaries, _user()
        if self._user is not None:
            shutil.chown(folder, self._user)
        command: list[str | Path] = [binaries / "initdb", "-D", folder / "data", "-U", "recsys"]
        command += ["--auth=trust", "--no-locale", "--encoding=UTF8"]
        subprocess.run(command, user=self._user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        self.url = f"postgresql://recsys@/%s?host={folder}"
        """Of its databases, with their names left out."""
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers.

        Raises:
            RuntimeError: it does not.
        """
        log = self._folder / "log"
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                [
                    *(self._binaries / "postgres", "-D", self._folder / "data", "-k", self._folder),
                    *("-c", "listen_addresses="),
                ],
                user=self._user,
                cwd=self._folder,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        _wait(self._server, self._folder, log)

    def kill(self) -> None:
        """SIGKILL to all of its processes, as where the machine is lost; return when they are gone."""
        assert self._server is not None
        own = self._server.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        for pid in (own, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            time.sleep(0.02)

    def stop(self) -> None:
        """Let it end open connections, and then itself."""
        assert self._server is not None
        self._server.send_signal(signal.SIGINT)
        self._server.wait(timeout=30)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster from its start to its end, gone with the block.

    Raises:
        RuntimeError: PostgreSQL is not installed or does not start.
    """
    with tempfile.TemporaryDirectory(prefix="recsys-pg-", dir="/tmp") as name:
        cluster = Cluster(Path(name))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def private_cluster() -> Iterator[str]:
    """The URL of the server of a running cluster, with the database's name left out; see `running_cluster`."""
    with running_cluster() as cluster:
        yield cluster.url


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
