"""Events under load on both databases: the service killed again and again, and how many events a second it acknowledges.

`python -m benchmarks.events --kills 50 --seconds 10`. SQLite is the default in the shop's folder, PostgreSQL a private cluster of Debian's
packages in a temporary folder; both sync every commit to disk. The load comes from wrk, on the same machine.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn

from recsys.errors import UserError
from recsys.reports import REPORTS, Cell, Table, read_tables, show, write_report
from recsys.store.database import database_url, opened
from recsys.store.migrate import upgrade
from recsys.store.schema import EVENTS
from service.embedded_redis import embedded_redis
from tests.killing import BATCH, BATCHES, SINGLES, Findings, Ordeal, environment_for
from tests.postgres import database, private_cluster
from tests.shop import logged, publish_tiny_shop, running_service

KINDS: Final = ("SQLite", "PostgreSQL")
KILL_WORKERS: Final = 2
KILL_AFTER: Final = (0.2, 2.0)
"""Seconds after the service has come up."""
SHAPES: Final = ((1_000, 4, 1), (1_000, 8, 2), (100, 8, 1), (1, 32, 1), (1, 32, 2))
"""Events in a body, connections, workers."""
WRK_SCRIPT: Final = """
local size, at, name = %d, 0, nil
function setup(thread) thread:set("seed", os.time()) end
function request()
  name = name or tostring(seed) .. tostring({}):sub(8)
  local events = {}
  for n = 1, size do
    at = at + 1
    events[n] = string.format('{"event_id":"%%s-%%d","type":"view","user_id":"u%%d","session_id":"s%%d","item_id":"item-%%02d"}',
      name, at, at %% 5000, at %% 5000, at %% 48 + 1)
  end
  return wrk.format("POST", "/events", {["content-type"] = "application/json"}, "[" .. table.concat(events, ",") .. "]")
end
function done(summary, latency, requests)
  io.write(string.format("RESULT %%d %%d %%.3f %%.3f %%d\\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@contextmanager
def empty_database(kind: str) -> Iterator[str | None]:
    """The URL of an empty database; None for the shop's own file."""
    if kind == "SQLite":
        yield None
        return
    with private_cluster() as cluster, database(cluster, "events") as url:
        yield url


class Workers:
    """The service's workers on one socket, forked from a process that has imported all they need: fifty starts take no hour."""

    def __init__(self, data_dir: Path, url: str | None, redis_url: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        self._environment = {
            **environment_for(url),
            "RECSYS_DATA_DIR": str(data_dir),
            "RECSYS_REDIS_URL": redis_url,
        }
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            ["benchmarks.serve", "tests.killing", "service.main", "uvloop", "httptools", "psycopg"]
        )
        self._processes: list[Any] = []

    def start(self) -> None:
        """See `tests.killing.Service`."""
        arguments = (self._listener, self._environment)
        self._processes = [self._context.Process(target=work, args=arguments) for _ in range(KILL_WORKERS)]
        for process in self._processes:
            process.start()

    def kill(self) -> None:
        """See `tests.killing.Service`."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def stop(self) -> None:
        """See `tests.killing.Service`."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._listener.close()


def work(listener: socket.socket, environment: dict[str, str]) -> None:
    """A worker, as uvicorn runs one for `recsys serve`."""
    os.environ.clear()
    os.environ.update(environment)
    logging.disable(logging.CRITICAL)
    config = uvicorn.Config(
        "service.main:app_from_settings",
        factory=True,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
    )
    uvicorn.Server(config).run(sockets=[listener])


def kill(kind: str, kills: int) -> Findings:
    """A service whose workers are killed again and again."""
    with ExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(empty_database(kind))
        publish_tiny_shop(data_dir)
        with opened(database_url(data_dir, url)) as engine:
            upgrade(engine)
        redis_url = stack.enter_context(embedded_redis(data_dir / "redis"))
        return Ordeal(Workers(data_dir, url, redis_url), data_dir, url, seed=1).run(kills, KILL_AFTER)


def throughput(kind: str, size: int, connections: int, workers: int, seconds: int) -> list[Cell]:
    """A row of the table: what wrk had acknowledged, and what the database holds afterwards.

    Raises:
        UserError: wrk failed, or the two do not agree.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(empty_database(kind))
        publish_tiny_shop(folder)
        script = folder / "wrk.lua"
        script.write_text(WRK_SCRIPT % size)
        environment = {} if url is None else {"DATABASE_URL": url}
        address = stack.enter_context(running_service(folder, workers, environment))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(script), address]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"^RESULT (\d+) (\d+) (\S+) (\S+) (\d+)$", run.stdout, re.MULTILINE)
        if found is None:
            raise UserError(f"wrk failed:\n{run.stdout}{run.stderr}")
        requests, micros, p50, p99, failed = (float(part) for part in found.groups())
        stored = len(logged(folder, EVENTS, url))
        if stored < requests * size:
            raise UserError(f"{requests * size:,.0f} events were acknowledged, {stored:,} are stored")
    rate = round(requests * size / (micros / 1e6))
    return [kind, size, connections, workers, rate, round(p50, 1), round(p99, 1), int(failed)]


def kill_table(findings: dict[str, Findings]) -> Table:
    """What was found after all kills."""
    places = ("database", "histories", "tables")
    rows: list[list[Cell]] = [
        [
            kind, found.kills, len(found.acknowledged), found.retried, len(found.lost_at_kill),
            " / ".join(str(found.lost[place]) for place in places),
            " / ".join(str(found.doubled[place]) for place in places),
        ]
        for kind, found in findings.items()
    ]  # fmt: skip
    columns = [
        "database", "kills", "events acknowledged", "requests sent again", "acknowledged, not in Redis after the kill",
        "lost: database / histories / tables", "doubled: database / histories / tables",
    ]  # fmt: skip
    note = (
        f"{KILL_WORKERS} workers killed with SIGKILL {KILL_AFTER[0]} to {KILL_AFTER[1]} seconds after they came up, while {SINGLES} clients send single "
        f"events and {BATCHES} send {BATCH} at once, each until it is acknowledged; a third of the events is anonymous, of sessions that log in. Target: 0 lost, 0 doubled."
    )
    return Table("The service killed at random moments under load", columns, rows, note)


def throughput_table(rows: list[list[Cell]]) -> Table:
    """Events a second."""
    columns = [
        "database",
        "events in a request",
        "connections",
        "workers",
        "events/s acknowledged",
        "p50, ms",
        "p99, ms",
        "failed",
    ]
    note = "The service, its Redis, the database and wrk share the machine's cores. Every event is judged, committed and synced, and in two histories in Redis before it is acknowledged."
    return Table("Events acknowledged per second", columns, rows, note)


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="0: keep what the report has")
    parser.add_argument("--seconds", type=int, default=10, help="of each run of wrk; 0: keep what the report has")
    parser.add_argument("--only", choices=KINDS, help="one database, to try: reports/ stays as it is")
    arguments = parser.parse_args()
    kinds = (arguments.only,) if arguments.only else KINDS
    known = (
        {table.title: table for table in read_tables(REPORTS / "events.json")}
        if (REPORTS / "events.json").exists()
        else {}
    )
    if arguments.kills:
        with ThreadPoolExecutor() as pool:  # all at once: a busy machine finds more moments
            found = pool.map(lambda kind: kill(kind, arguments.kills), kinds)
            table = kill_table(dict(zip(kinds, found, strict=True)))
        known[table.title] = table
        show(table)
    if arguments.seconds:
        table = throughput_table([throughput(kind, *shape, arguments.seconds) for shape in SHAPES for kind in kinds])
        known[table.title] = table
        show(table)
    if not arguments.only:
        print(f"\nwritten: {write_report('events', 'make bench-events', list(known.values()))}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
