"""What it costs to ask who asks: `/recommend` of one bundle, open, with a key, and with a key whose use is counted, under the same load from wrk.

`python -m benchmarks.keys --data-dir data --seconds 10`. Each is measured once in every round, so that a busy machine is busy for all.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.load import CONNECTIONS, K, Load, load, pick_cores, together, user_ids
from benchmarks.serve import REQUESTS, WARM_UP_SECONDS, make_questions, newest_bundles
from benchmarks.servers import Server, service
from recsys.errors import UserError
from recsys.reports import Cell, Table, show, write_report
from service.access import Access
from service.guard import Guard
from service.headers import SecurityHeaders
from service.keys import KEYS_FILE, KeysHolder, Role, create_key
from service.metrics import Metrics
from service.rate_limits import RateLimiter, RateLimits
from service.settings import Settings

DOOR_REQUESTS: Final = 3_000
UNREACHED: Final = "1000000000/minute"
KINDS: Final = ("open", "with a key", "with a key and a limit")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of wrk."""

    load: Load
    core_us: float
    """Of the worker, for each request: others on the machine change it less than the rate."""


def measured(server: Server, core: int, paths: list[str], seconds: int, scratch: Path, key: str | None) -> Run:
    """Ask one of them."""
    before = server.core_seconds()
    run = load(server, core, paths, seconds, scratch, key)
    return Run(run, (server.core_seconds() - before) / (run.per_second * seconds) * 1e6)


def measure(bundle: Path, users: list[str], seconds: int, rounds: int) -> dict[str, list[Run]]:
    """Serve the bundle open and with keys at once, and ask one after the other."""
    cores, paths = pick_cores(), make_questions(bundle, users).mixed
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file, now = scratch / "closed" / KEYS_FILE, datetime.now(UTC)
        keys = {
            KINDS[1]: create_key(file, "plain", Role.SERVER, now),
            KINDS[2]: create_key(file, "counted", Role.SERVER, now, UNREACHED),
        }
        opened = stack.enter_context(service(cores.server, bundle, scratch / "open"))
        closed = stack.enter_context(service(cores.server, bundle, scratch / "closed"))
        runs: dict[str, list[Run]] = defaultdict(list)
        for number in range(rounds + 1):
            for kind in KINDS:
                server = closed if kind in keys else opened
                length = seconds if number else WARM_UP_SECONDS
                run = measured(server, cores.client, paths, length, scratch, keys.get(kind))
                if number:
                    runs[kind].append(run)
        return runs


def table(runs: dict[str, list[Run]], rounds: int, version: str) -> Table:
    """What was measured."""
    rows: list[list[Cell]] = []
    for kind, found in runs.items():
        run, core_us = together([one.load for one in found]), median(one.core_us for one in found)
        more = median(one.core_us - first.core_us for one, first in zip(found, runs[KINDS[0]], strict=True))
        rates: list[Cell] = [round(run.per_second), round(run.p50_ms, 2), round(run.p99_ms, 2)]
        rows.append([kind, *rates, round(core_us), round(more, 1), run.failed])
    return Table(
        "What keys and limits cost",
        ["/recommend", "requests/s", "p50, ms", "p99, ms", "core per request, µs", "more than open, µs", "not 2xx"],
        rows,
        note=f"k = {K}, surfaces mixed, {CONNECTIONS} connections of wrk on another core, {REQUESTS:,} different requests; medians of "
        f"{rounds} alternating rounds, of differences within a round in the last but one column; bundle {version}.",
    )


async def _constant(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _received() -> Message:
    return {"type": "http.request"}


async def _sent(_message: Message) -> None:
    pass


def _door(folder: Path) -> ASGIApp:
    """The middleware of the service around a constant answer; Redis is away, which is asked once in ten million requests."""
    metrics, access = Metrics("door", CollectorRegistry()), Access(frozenset({"/"}))
    limiter = RateLimiter("redis://127.0.0.1:1", shop="door", timeout_ms=1_000, retry_ms=10**9)
    rates = RateLimits(limiter, Settings())
    return SecurityHeaders(
        Guard(_constant, access, KeysHolder(folder / KEYS_FILE, metrics), rates, metrics), access.pages
    )


async def _core_us(app: ASGIApp, key: str | None) -> float:
    headers = [(b"host", b"x"), (b"accept", b"*/*")]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    scope = {"type": "http", "method": "GET", "path": "/recommend", "headers": headers, "client": ("10.0.0.1", 1)}
    started = time.process_time()
    for _ in range(DOOR_REQUESTS):
        await app(dict(scope), _received, _sent)
    return (time.process_time() - started) / DOOR_REQUESTS * 1e6


async def at_the_door(rounds: int) -> dict[str, list[float]]:
    """Microseconds of a core that the middleware takes for a request, in each round."""
    with tempfile.TemporaryDirectory() as folder:
        opened, closed, now = Path(folder) / "open", Path(folder) / "closed", datetime.now(UTC)
        asked = {
            KINDS[0]: (_door(opened), None),
            KINDS[1]: (None, create_key(closed / KEYS_FILE, "plain", Role.SERVER, now)),
            KINDS[2]: (None, create_key(closed / KEYS_FILE, "counted", Role.SERVER, now, UNREACHED)),
        }
        door, taken = _door(closed), defaultdict[str, list[float]](list)
        for _ in range(rounds):
            alone = await _core_us(_constant, None)
            for kind, (app, key) in asked.items():
                taken[kind].append(await _core_us(app or door, key) - alone)
        return taken


def door_table(taken: dict[str, list[float]], rounds: int) -> Table:
    """What was measured."""
    return Table(
        "What the middleware takes by itself",
        ["/recommend", "core per request, µs"],
        [[kind, round(median(found), 1)] for kind, found in taken.items()],
        note=f"Guard and security headers around a constant ASGI application, less that application; in one process, "
        f"{DOOR_REQUESTS:,} requests a round, medians of {rounds} rounds.",
    )


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seconds", type=int, default=10, help="of each run")
    parser.add_argument("--rounds", type=int, default=5, help="in each of which each is measured once")
    parser.add_argument("--door", action="store_true", help="only what the middleware takes by itself, in this process")
    parser.add_argument("--trial", action="store_true", help="print only: reports/ stays as it is")
    arguments = parser.parse_args()
    door = door_table(asyncio.run(at_the_door(arguments.rounds * 3)), arguments.rounds * 3)
    show(door)
    if arguments.door:
        return
    bundle = next(iter(newest_bundles(arguments.data_dir / "bundles").values()))
    runs = measure(bundle, user_ids(arguments.data_dir), arguments.seconds, arguments.rounds)
    found = table(runs, arguments.rounds, bundle.name)
    show(found)
    if not arguments.trial:
        command = f"python -m benchmarks.keys --seconds {arguments.seconds} --rounds {arguments.rounds}"
        print(f"\nwritten: {write_report('keys', command, [door, found])}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
