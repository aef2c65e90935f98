"""The service as an operator starts it, for drills: `recsys serve` in a folder of its own, and what its processes take."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from recsys.errors import UserError
from recsys.publish import publish

STARTUP_SECONDS: Final = 120
STOP_SECONDS: Final = 30
COMMAND: Final = (sys.executable, "-c", "from recsys.cli import main; main()")
MIB: Final = 1024 * 1024


class DrillError(UserError):
    """A drill could not be held; the message says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A service that answers."""

    url: str
    port: int
    data_dir: Path
    pid: int
    """Of the command."""
    ready_seconds: float
    """From the command to the first answer."""

    def processes(self) -> list[psutil.Process]:
        """The command's own and all below it: workers, and Redis."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """Those that answer."""
        return [one for one in self.processes() if any("spawn_main" in part for part in one.cmdline())]

    def cpu_seconds(self) -> float:
        """That all of them have used until now."""
        return sum(sum(one.cpu_times()[:2]) for one in self.processes())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def proportional_mib(process: psutil.Process) -> float:
    """Memory of a process; what it shares with others is divided by those who share it."""
    return float(process.memory_full_info().pss / MIB)


def publish_links(bundles: Path, versions: Sequence[Path]) -> None:
    """Publish bundles that lie elsewhere, one after the other, below `bundles`: the last is live, the one before it the way back.

    Raises:
        BundleError: one of them is damaged.
    """
    bundles.mkdir(parents=True)
    for path in versions:
        (bundles / path.name).symlink_to(path.resolve())
        publish(bundles, path.name, reason="drill", force="a drill")


@contextmanager
def serving(data_dir: Path, workers: int) -> Iterator[Server]:
    """The service on what is live below `data_dir`, from its start until it is stopped.

    An empty file of experiments lies there, which a drill may write into.

    Raises:
        DrillError: it ended, or did not answer in time; the message holds its log.
    """
    port, log, started = free_port(), data_dir / "service.log", time.perf_counter()
    (data_dir / "experiments.toml").touch()
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("REDIS_URL", "DATABASE_URL") and not name.startswith("RECSYS_")
    }
    environment = {
        **inherited,
        "OPENBLAS_NUM_THREADS": "1",
        "RECSYS_EXPERIMENTS": str(data_dir / "experiments.toml"),
        # Everything shares the cores here: an answer that gave up on a Redis that waits for a core would be no answer of its own.
        "RECSYS_REDIS_TIMEOUT_MS": "1000",
    }
    options = ("--workers", str(workers), "--port", str(port), "--data-dir", str(data_dir))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "serve", *options], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(f"{url}/health/ready"):
            if process.poll() is not None or time.perf_counter() - started > STARTUP_SECONDS:
                raise DrillError(f"the service does not answer:\n{log.read_text()}")
            time.sleep(0.02)
        yield Server(url, port, data_dir, process.pid, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
