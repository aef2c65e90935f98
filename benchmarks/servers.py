"""What is measured: processes that answer on one core, the service on a bundle and a plain FastAPI route beside it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI

from recsys.errors import UserError
from recsys.publish import publish

STARTUP_SECONDS: Final = 60
CONSTANT_ITEMS: Final = 20


def constant_app() -> FastAPI:
    """What the service is compared with: nothing but FastAPI, returning twenty items that never change."""
    app = FastAPI()
    item = {"rank": 1, "score": 1.05, "source": "buy_again", "reason": "You bought this 9 times", "item_id": "1082185"}
    item |= {"title": "BANANAS 40 LB", "brand": "National", "category": "PRODUCE > TROPICAL FRUIT", "price_cents": 94}
    items = [{**item, "rank": n} for n in range(1, CONSTANT_ITEMS + 1)]
    answer = {"request_id": "5f0c6b1d9a2e1", "surface": "home", "items": items}

    @app.get("/recommend")
    async def constant():  # type: ignore[no-untyped-def]
        return answer

    @app.get("/declared")
    async def declared() -> dict[str, Any]:
        return answer

    return app


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request; status 0 where nobody listens yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    except ConnectionRefusedError:
        return 0, b""
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, MiB."""

    resident: float
    proportional: float
    """What is shared is divided by those who share it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answers."""

    pid: int
    port: int
    ready_seconds: float

    def memory(self) -> Memory:
        """As it is now."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        rss, pss = (int(re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)[1]) for name in ("Rss", "Pss"))  # type: ignore[index]
        return Memory(rss / 1024, pss / 1024)

    def core_seconds(self) -> float:
        """Time that it has spent on its core so far."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


PATIENT: Final = {
    # Redis shares the saturated core: an answer that gave up on it would be a cheaper one, and pass for speed.
    "RECSYS_REDIS_TIMEOUT_MS": "2000",
    # So would one that was made cheaper since others queued before it.
    "RECSYS_DEADLINE_MS": "60000",
    "RECSYS_QUEUE_MS": "60000",
}
"""Variables of a service that is measured at its best answers."""


@contextmanager
def running(
    core: int, port: int, ready_path: str, command: Sequence[str], environment: Mapping[str, str] = PATIENT
) -> Iterator[Server]:
    """A server on one core, from its start until it is stopped.

    Raises:
        UserError: it ended, or did not answer within a minute.
    """
    started = time.perf_counter()
    inherited = {k: v for k, v in os.environ.items() if k != "REDIS_URL" and not k.startswith("RECSYS_")}
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, *command],
        env={**inherited, "OPENBLAS_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        while call(port, "GET", ready_path)[0] != 200:
            if process.poll() is not None or time.perf_counter() - started > STARTUP_SECONDS:
                raise UserError(f"does not answer: {' '.join(command)}")
            time.sleep(0.01)
        yield Server(process.pid, port, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


@contextmanager
def service(core: int, bundle: Path, data_dir: Path, environment: Mapping[str, str] = PATIENT) -> Iterator[Server]:
    """`recsys serve` on one bundle, published in an empty data directory of its own, where its Redis and its log are too.

    Raises:
        BundleError: the bundle is damaged or fails the smoke test.
    """
    (data_dir / "bundles").mkdir(parents=True)
    (data_dir / "bundles" / bundle.name).symlink_to(bundle.resolve())
    publish(data_dir / "bundles", bundle.name, reason="benchmark")
    port = free_port()
    command = ["-c", "from recsys.cli import main; main()", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with running(core, port, "/health/ready", command, environment) as server:
        yield server


@contextmanager
def constant(core: int) -> Iterator[Server]:
    """The constant route, run with the service's loop and parser."""
    port = free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = ["-m", "uvicorn", "--factory", "benchmarks.servers:constant_app", "--port", str(port), *options]
    with running(core, port, "/recommend", command) as server:
        yield server
