"""`/recommend` beside a plain FastAPI route with a constant answer, on one core each in turn, under the same load from wrk.

`python -m benchmarks.serve --data-dir data --seconds 10`. The service runs on the live bundle, with a Redis and a log of its own, so
that a benchmark leaves nothing among a shop's events. Both are measured alternately, so that a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import duckdb
import numpy as np
import orjson
from fastapi import FastAPI

from recsys.bundle import Bundle, load_bundle
from recsys.errors import UserError
from recsys.events import Surface
from recsys.publish import live_version
from recsys.reports import Cell, Table, write_report

K: Final = 20
CONNECTIONS: Final = 16
REQUESTS: Final = 20_000
"""Different requests that wrk goes through, then again from the first."""
MIX: Final = {
    Surface.HOME: 0.35,
    Surface.SIMILAR: 0.20,
    Surface.BOUGHT_TOGETHER: 0.10,
    Surface.CART: 0.10,
    Surface.BUY_AGAIN: 0.10,
    Surface.TRENDING: 0.10,
    Surface.NEW_ARRIVALS: 0.05,
}
"""Shares of the surfaces, about as pages of a shop ask for them."""
WRK_SCRIPT: Final = """
local paths = {}
for line in io.lines("%s") do paths[#paths + 1] = wrk.format("GET", line) end
local at = 0
function request()
  at = at %% #paths + 1
  return paths[at]
end
function done(summary, latency, requests)
  io.write(string.format("RESULT %%.1f %%.3f %%.3f %%d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


def constant_app() -> FastAPI:
    """What the service is compared with: nothing but FastAPI, returning twenty items that never change."""
    app = FastAPI()
    item = {"rank": 1, "score": 1.05, "source": "buy_again", "reason": "You bought this 9 times", "item_id": "1082185"}
    item |= {"title": "BANANAS 40 LB", "brand": "National", "category": "PRODUCE > TROPICAL FRUIT", "price_cents": 94}
    answer = {"request_id": "5f0c6b1d9a2e1", "surface": "home", "items": [{**item, "rank": n} for n in range(1, K + 1)]}

    @app.get("/recommend")
    async def constant():  # type: ignore[no-untyped-def]
        return answer

    @app.get("/declared")
    async def declared() -> dict[str, Any]:
        return answer

    return app


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Answers other than 2xx and 3xx, and broken connections."""


@dataclass(frozen=True, slots=True)
class Cores:
    """One core that serves and one that asks."""

    server: int
    client: int


def pick_cores() -> Cores:
    """The last two that this process may use.

    Raises:
        UserError: there is only one, or wrk is missing.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise UserError("the benchmark needs two cores: one that serves and one that asks")
    if shutil.which("wrk") is None:
        raise UserError("wrk is missing: install it, for example with `apt-get install wrk`")
    return Cores(server=allowed[-2], client=allowed[-1])


# Requests


def user_ids(data_dir: Path) -> list[str]:
    """Known users: a bundle holds only hashes of their ids, the tables hold the ids."""
    path = data_dir / "tables" / "users.parquet"
    with duckdb.connect() as connection:
        return [row[0] for row in connection.execute(f"SELECT user_id FROM '{path}' ORDER BY user_id").fetchall()]


class Requests:
    """Random requests of known users about items that they have bought."""

    def __init__(self, bundle: Bundle, users: Sequence[str], rng: np.random.Generator) -> None:
        self._bundle = bundle
        self._users = [user for user in users if len(bundle.histories.of(user))]
        self._rng = rng
        if not self._users:
            raise UserError("no user of the tables has a history in the live bundle: train and publish again")

    def _user(self) -> str:
        return self._users[int(self._rng.integers(len(self._users)))]

    def _bought(self, user: str, n: int) -> list[str]:
        rows = self._rng.choice(self._bundle.histories.of(user).items, n)
        return [self._bundle.catalogue.item_id(int(row)) for row in rows]

    def path(self, surface: Surface) -> str:
        """A `GET` of this surface."""
        user = self._user()
        path = f"/recommend?k={K}&surface={surface}&user_id={user}"
        if surface in (Surface.SIMILAR, Surface.BOUGHT_TOGETHER):
            path += f"&item_id={self._bought(user, 1)[0]}"
        if surface is Surface.CART:
            path += "".join(f"&cart={item}" for item in self._bought(user, 3))
        return path

    def mixed(self, n: int) -> list[str]:
        """`n` requests with the shares of `MIX`."""
        chosen = self._rng.choice(len(MIX), n, p=list(MIX.values()))
        return [self.path(list(MIX)[surface]) for surface in chosen]

    def events(self, n: int) -> list[dict[str, Any]]:
        """Events of this moment, so that Redis has recent histories to read."""
        users = [self._user() for _ in range(n)]
        return [{"type": "view", "user_id": user, "item_id": self._bought(user, 1)[0]} for user in users]


# Servers


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
class Server:
    """A process that answers."""

    pid: int
    port: int
    ready_seconds: float

    def memory_mib(self) -> tuple[float, float]:
        """Resident and proportional size; the second divides what is shared by those who share it."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        rss, pss = (int(re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)[1]) for name in ("Rss", "Pss"))  # type: ignore[index]
        return rss / 1024, pss / 1024


@contextmanager
def running(core: int, port: int, ready_path: str, command: Sequence[str]) -> Iterator[Server]:
    """A server on one core, from its start until it is stopped.

    Raises:
        UserError: it ended, or did not answer within a minute.
    """
    started = time.perf_counter()
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    environment = {k: v for k, v in environment.items() if k != "REDIS_URL" and not k.startswith("RECSYS_")}
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, *command], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        while call(port, "GET", ready_path)[0] != 200:
            if process.poll() is not None or time.perf_counter() - started > 60:
                raise UserError(f"does not answer: {' '.join(command)}")
            time.sleep(0.01)
        yield Server(process.pid, port, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


@contextmanager
def service(core: int, data_dir: Path, scratch: Path) -> Iterator[Server]:
    """`recsys serve` on the bundles of `data_dir`; its Redis and its log are in `scratch`."""
    (scratch / "bundles").symlink_to((data_dir / "bundles").resolve())
    port = free_port()
    command = ["-c", "from recsys.cli import main; main()", "serve", "--port", str(port), "--data-dir", str(scratch)]
    with running(core, port, "/health/ready", command) as server:
        yield server


@contextmanager
def constant(core: int) -> Iterator[Server]:
    """The constant route, run with the service's loop and parser."""
    port = free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = ["-m", "uvicorn", "--factory", "benchmarks.serve:constant_app", "--port", str(port), *options]
    with running(core, port, "/recommend", command) as server:
        yield server


# Load


def load(server: Server, core: int, paths: Sequence[str], seconds: float, scratch: Path) -> Load:
    """Ask for `seconds`, `CONNECTIONS` at a time.

    Raises:
        UserError: wrk failed.
    """
    listed, script = scratch / "paths.txt", scratch / "wrk.lua"
    listed.write_text("\n".join(paths) + "\n")
    script.write_text(WRK_SCRIPT % listed)
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script)]
    run = subprocess.run([*command, f"http://127.0.0.1:{server.port}"], capture_output=True, text=True, check=False)
    found = re.search(r"^RESULT (\S+) (\S+) (\S+) (\d+)$", run.stdout, re.MULTILINE)
    if found is None:
        raise UserError(f"wrk failed:\n{run.stdout}{run.stderr}")
    return Load(float(found[1]), float(found[2]), float(found[3]), int(found[4]))


def together(runs: Sequence[Load]) -> Load:
    """Medians of several runs; failures add up."""
    return Load(
        median(run.per_second for run in runs),
        median(run.p50_ms for run in runs),
        median(run.p99_ms for run in runs),
        sum(run.failed for run in runs),
    )


def measure(data_dir: Path, seconds: float, rounds: int) -> list[Table]:
    """Run everything; the tables of the report."""
    cores = pick_cores()
    version = live_version(data_dir / "bundles")
    if version is None:
        raise UserError(f"no bundle is live in {data_dir / 'bundles'}: run `recsys train --phase 1 --publish` first")
    requests = Requests(load_bundle(data_dir / "bundles" / version), user_ids(data_dir), np.random.default_rng(0))
    mixed = requests.mixed(REQUESTS)
    ours: list[Load] = []
    theirs: list[Load] = []
    declared: list[Load] = []
    by_surface: dict[Surface, Load] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        service(cores.server, data_dir, Path(folder)) as server,
        constant(cores.server) as other,
    ):
        scratch = Path(folder)
        for _ in range(5):
            status, _answer = call(server.port, "POST", "/events", orjson.dumps(requests.events(1_000)))
            if status != 200:
                raise UserError(f"/events answers {status}")
        for warmed in (server, other):
            load(warmed, cores.client, mixed, 3, scratch)
        for _ in range(rounds):
            ours.append(load(server, cores.client, mixed, seconds, scratch))
            theirs.append(load(other, cores.client, mixed, seconds, scratch))
            declared.append(load(other, cores.client, ["/declared"], seconds, scratch))
        for surface in MIX:
            paths = [requests.path(surface) for _ in range(2_000)]
            by_surface[surface] = load(server, cores.client, paths, max(1.0, seconds / 5), scratch)
        rss, pss = server.memory_mib()
        ready = server.ready_seconds
    runs = (together(ours), together(theirs), together(declared))
    return tables(*runs, by_surface, ready=ready, rss=rss, pss=pss, rounds=rounds)


def tables(
    ours: Load,
    theirs: Load,
    declared: Load,
    by_surface: dict[Surface, Load],
    *,
    ready: float,
    rss: float,
    pss: float,
    rounds: int,
) -> list[Table]:
    """What was measured, beside what was aimed at."""
    columns = ["route", "requests/s", "p50, ms", "p99, ms", "not 2xx"]

    def row(name: str, run: Load) -> list[Cell]:
        return [name, round(run.per_second), round(run.p50_ms, 2), round(run.p99_ms, 2), run.failed]

    def ratio(other: Load) -> float:
        return round(ours.per_second / other.per_second, 3)

    return [
        Table(
            "Requests per second on one core",
            columns,
            [
                row("/recommend, surfaces mixed", ours),
                row("constant FastAPI route", theirs),
                row("constant FastAPI route, return type declared", declared),
            ],
            note=f"k = {K}, {CONNECTIONS} connections of wrk on another core, medians of {rounds} alternating runs; "
            "the embedded Redis shares the service's core.",
        ),
        Table(
            "Service, beside its targets",
            ["figure", "measured", "target"],
            [
                ["requests/s, ratio to the constant route", ratio(theirs), "at least 0.5"],
                ["requests/s, ratio to the constant route with its return type declared", ratio(declared), None],
                ["seconds from the command to ready", round(ready, 2), "under 3"],
                ["resident memory of the worker, MiB", round(rss), "under 300"],
                ["proportional memory of the worker, MiB", round(pss), None],
            ],
        ),
        Table("By surface", columns, [row(str(surface), run) for surface, run in by_surface.items()]),
    ]


def show(table: Table) -> None:
    """A table on the terminal."""
    rows = [table.columns, *(["" if cell is None else str(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    print(f"\n{table.title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=2, help="alternating runs of each route")
    arguments = parser.parse_args()
    found = measure(arguments.data_dir, arguments.seconds, arguments.rounds)
    for table in found:
        show(table)
    print(f"\nwritten: {write_report('serve', 'make bench-serve', found)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
