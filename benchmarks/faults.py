"""What can go wrong around a service, by real means: signals, a proxy, a disk that is full, files that are broken, clocks that jump.

A fault is a context: it strikes when the block begins, and is lifted when the block ends. What went wrong that no answer shows is noted in
`Stage.complaints`.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from benchmarks.servers import call, free_port
from benchmarks.stage import RedisServer, Stage, eventually
from recsys.publish import live_version

SLOW_SECONDS: Final = 0.5
LIBFAKETIME: Final = "libfaketimeMT.so.1"
JUMPS: Final = ("+2h", "-1h", "+0")
"""By how much clocks are off, one after the other."""
BREAKAGES: Final = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a stage."""

    name: str
    how: str
    """By which means."""
    strike: Callable[[Stage], AbstractContextManager[None]]
    on: str = "SQLite"
    """The stage that it needs: `SQLite`, `PostgreSQL` or `clock`."""

    @property
    def slug(self) -> str:
        """Its name as events have it."""
        return self.name.lower().replace(" ", "-")


@contextmanager
def nothing(_stage: Stage) -> Iterator[None]:
    """What is there without any fault."""
    yield


@contextmanager
def redis_killed(stage: Stage) -> Iterator[None]:
    """It comes back empty."""
    stage.redis.send_signal(signal.SIGKILL)
    yield
    stage.redis.start()


@contextmanager
def redis_paused(stage: Stage) -> Iterator[None]:
    """Connections stand, the kernel takes what is sent, nobody answers."""
    stage.redis.send_signal(signal.SIGSTOP)
    yield
    stage.redis.send_signal(signal.SIGCONT)


@contextmanager
def redis_slow(stage: Stage) -> Iterator[None]:
    """Every part of an answer comes late."""
    stage.proxy.delay_seconds = SLOW_SECONDS
    yield
    stage.proxy.delay_seconds = 0.0


@contextmanager
def redis_half_open(stage: Stage) -> Iterator[None]:
    """What is sent goes nowhere."""
    stage.proxy.swallows = True
    yield
    stage.proxy.swallows = False


@contextmanager
def redis_full(stage: Stage) -> Iterator[None]:
    """It reads, and refuses to write."""
    with stage.redis.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def redis_flushed(stage: Stage) -> Iterator[None]:
    """All is forgotten."""
    with stage.redis.client() as client:
        client.flushall()
    yield


@contextmanager
def redis_replaced(stage: Stage) -> Iterator[None]:
    """Another one takes its place, which has the same keys with values of other types."""
    with stage.redis.client() as client:
        known = {key: client.type(key) for key in client.scan_iter(count=1_000)}
    impostor = RedisServer(stage.folder)
    with impostor.running():
        with impostor.client() as client:
            for key, kind in known.items():
                if kind == b"string":
                    client.rpush(key, "of another program")
                else:
                    client.set(key, b"\xff of another program")
        stage.proxy.upstream = impostor.port
        stage.proxy.drop()
        yield
        stage.proxy.upstream = stage.redis.port
        stage.proxy.drop()


@contextmanager
def database_locked(stage: Stage) -> Iterator[None]:
    """Another process writes, and does not finish."""
    with closing(sqlite3.connect(stage.disk / "recsys.db", isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def disk_full(stage: Stage) -> Iterator[None]:
    """The file system is filled up where it is a small one of its own; else no file of the workers may grow."""
    if os.path.ismount(stage.disk):
        filler = stage.disk / "filler"
        with closing(sqlite3.connect(stage.disk / "recsys.db", timeout=30)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else there is room left in files that are there
        _fill(filler)
        yield
        filler.unlink()
        return
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in stage.workers()}
    for pid, (_soft, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    yield
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


def _fill(path: Path) -> None:
    for size in (2**20, 2**12, 1):
        with path.open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@contextmanager
def database_killed(stage: Stage) -> Iterator[None]:
    """All of PostgreSQL's processes; it recovers by its log when it comes back."""
    assert stage.cluster is not None
    stage.cluster.kill()
    yield
    stage.cluster.start()


@contextmanager
def corrupt_bundle(stage: Stage) -> Iterator[None]:
    """Bundles that are broken in several ways become live, past `recsys publish`, which would refuse them."""
    bundles, (live, *_) = stage.folder / "bundles", stage.versions
    before = stage.metric("recsys_bundles_refused_total")
    for number, break_it in enumerate((_truncated, _altered, _emptied)):
        name = f"99990101T00000{number}-phase1-broken"
        shutil.copytree((bundles / live).resolve(), bundles / name)
        break_it(bundles / name)
        _point(bundles, name)
        expected = before + number + 1
        eventually(
            partial(lambda least: stage.metric("recsys_bundles_refused_total") >= least, expected),
            f"a bundle that is {break_it.__name__[1:]} is not refused",
        )
    yield
    _point(bundles, live)
    for number in range(BREAKAGES):
        shutil.rmtree(bundles / f"99990101T00000{number}-phase1-broken")


def _truncated(bundle: Path) -> None:
    largest = max((bundle / "arrays").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def _altered(bundle: Path) -> None:
    largest = max((bundle / "arrays").iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 0xFF]))


def _emptied(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.mkdir()


def _point(bundles: Path, version: str) -> None:
    draft = bundles / ".live-chaos"
    draft.write_text(version + "\n")
    draft.replace(bundles / "live")


@contextmanager
def worker_killed(stage: Stage) -> Iterator[None]:
    """One of several; the others answer until there is a new one."""
    before = stage.workers()
    os.kill(min(before), signal.SIGKILL)
    yield
    eventually(lambda: len(stage.workers() - {min(before)}) == len(before), "the killed worker is not replaced")


@contextmanager
def registry_unreachable(stage: Stage) -> Iterator[None]:
    """Nobody listens where MLflow should be, and a bundle is published all the same."""
    live, other = stage.versions
    address = f"http://127.0.0.1:{free_port()}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": address}
    command = [sys.executable, "-c", "from recsys.cli import main; main()"]
    _point(stage.folder / "bundles", live)
    publishing = subprocess.Popen(
        [*command, "publish", other, "--force", "chaos", "--data-dir", str(stage.folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _serves(stage, other), "a bundle that is published without the registry is not served")
        yield
    finally:
        publishing.kill()
        publishing.wait()
        _point(stage.folder / "bundles", live)
    eventually(lambda: _serves(stage, live), "the bundle that was live before is not served again")


def _serves(stage: Stage, version: str) -> bool:
    if live_version(stage.folder / "bundles") != version:
        return False
    answers = [call(stage.port, "GET", "/health/ready")[1] for _ in range(4)]
    return all(orjson.loads(answer)["model_version"] == version for answer in answers)


@contextmanager
def clock_jump(stage: Stage) -> Iterator[None]:
    """The workers' clock goes wrong, by libfaketime; their steady clock goes on, as a real one does."""
    clock, stop = Path(stage.environment["FAKETIME_TIMESTAMP_FILE"]), threading.Event()

    def jump() -> None:
        for offset in JUMPS[:-1]:
            clock.write_text(offset)
            stop.wait(2.5)

    jumping = threading.Thread(target=jump)
    jumping.start()
    yield
    stop.set()
    jumping.join()
    clock.write_text(JUMPS[-1])


@contextmanager
def poisoned_events(stage: Stage) -> Iterator[None]:
    """Bodies that are no events, or odd ones, as fast as one connection at a time takes them."""
    stop, statuses = threading.Event(), set[int]()

    def poison() -> None:
        rng = random.Random(0)
        while not stop.is_set():
            body = rng.choice(POISON)
            with suppress(OSError):
                status, _answer = call(stage.port, "POST", "/events", body)
                statuses.add(status)

    poisoner = threading.Thread(target=poison)
    poisoner.start()
    yield
    stop.set()
    poisoner.join()
    if odd := {status for status in statuses if status >= 500 or status == 0}:
        stage.complaints.append(f"poisoned events were answered {sorted(odd)}")


def _odd(**members: object) -> bytes:
    return orjson.dumps({"type": "view", "user_id": "poison", "item_id": "poison", **members})


POISON: Final = (
    b"", b"\x00", b"{", b"null", b"[[[[", b"[" * 50_000, b"\xff\xfe\xfd", b'{"type": NaN}', b'"view"', b"[]" , b"1e400",
    b'{"type":"view","user_id":"\\ud800","item_id":"\\ud800"}',
    b'{"type":"view","user_id":"a\\u0000b","item_id":"a\\u0000b"}',
    b"[" + b",".join([b'{"type":"teleport"}'] * 1_000) + b"]",
    b"[" + b",".join([b"1"] * 1_001) + b"]",
    b"x" * 3_000_000,
    _odd(type="teleport"), _odd(item_id=["a"]), _odd(user_id=1), _odd(item_id=""), _odd(item_id="x" * 100_000),
    _odd(occurred_at="9999-12-31T23:59:59Z"), _odd(occurred_at="0001-01-01T00:00:00Z"), _odd(occurred_at="-1"),
    _odd(event_id="'; DROP TABLE events; --", item_id="<script>alert(1)</script>"),
    _odd(event_id="\u202e\U0001f4a3", user_id="\u0000", item_id="\n"),
    _odd(quantity=-(2**62)), _odd(price_cents=2**62), _odd(unknown={"a": [{"b": None}] * 1_000}),
    orjson.dumps({"events": [{"events": []}]}), orjson.dumps({"events": {"type": "view"}}),
)  # fmt: skip


def libfaketime() -> Path | None:
    """Debian's library, where it is installed."""
    return next(iter(sorted(Path("/usr/lib").glob(f"*/faketime/{LIBFAKETIME}"))), None)


FAULTS: Final = (
    Fault("nothing", "for comparison", nothing),
    Fault("Redis killed", "SIGKILL; it comes back empty", redis_killed),
    Fault("Redis paused", "SIGSTOP", redis_paused),
    Fault("Redis slow", f"{SLOW_SECONDS * 1_000:.0f} ms later, by a proxy", redis_slow),
    Fault("Redis half-open", "a proxy that swallows", redis_half_open),
    Fault("Redis full", "maxmemory 1, noeviction", redis_full),
    Fault("Redis flushed", "FLUSHALL", redis_flushed),
    Fault("Redis replaced", "another server with other types under all keys", redis_replaced),
    Fault("SQLite locked", "BEGIN EXCLUSIVE by another process", database_locked),
    Fault("disk full", "the database's file system filled up", disk_full),
    Fault("corrupt bundle", "truncated, altered, empty; the pointer moved by hand", corrupt_bundle),
    Fault("worker killed", "SIGKILL to one of two", worker_killed),
    Fault("registry unreachable", "MLflow's address leads nowhere, while a bundle is published", registry_unreachable),
    Fault("poisoned events", f"{len(POISON)} kinds of bodies that are no events, without a pause", poisoned_events),
    Fault("PostgreSQL killed", "SIGKILL to all of its processes, then started again", database_killed, on="PostgreSQL"),
    Fault(
        "clock jump", f"libfaketime, the workers' clock off by {JUMPS[0]}, then by {JUMPS[1]}", clock_jump, on="clock"
    ),
)
