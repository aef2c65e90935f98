"""How long a rollback takes to reach every worker, and whether any request fails meanwhile: `make bench-rollback`.

Two workers serve two bundles' worth of rollbacks and their undoing, each by the command that an operator types, while wrk asks as fast as
they answer. A few more connections ask all the time which version answers; the worker is told by the beginning of `request_id`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import orjson

from benchmarks.load import Load, load, pick_cores, together, user_ids
from benchmarks.serve import make_questions, newest_bundles, show, tell
from benchmarks.servers import Server, free_port, running
from recsys.errors import UserError
from recsys.publish import live_version, publish
from recsys.reports import Cell, Table, write_report

WORKERS: Final = 2
WATCHERS: Final = 12
EVERY_SECONDS: Final = 0.01
PREFIX: Final = 12
"""Characters of a request id that are the worker's own."""
SETTLE_SECONDS: Final = 2.0
LOAD_SECONDS: Final = 5
"""Of each run of wrk, one after the other."""
TARGET_SECONDS: Final = 5.0
RECSYS: Final = (sys.executable, "-c", "from recsys.cli import main; main()")


@dataclass(slots=True)
class Seen:
    """What the watchers saw."""

    answers: list[tuple[float, str, str]] = field(default_factory=list)
    """When (monotonic), which worker, which version."""
    failed: int = 0

    @property
    def workers(self) -> set[str]:
        """All that have answered."""
        return {worker for _, worker, _ in self.answers}


@dataclass(frozen=True, slots=True)
class Move:
    """One rollback, or the undoing of one."""

    action: str
    started: float
    """Monotonic, as all times here: when the command was typed."""
    pointer_moved: float
    returned: float
    version: str
    """That is live then."""


async def watch(port: int, path: str, seen: Seen, until: asyncio.Event) -> None:
    """Ask on one connection until the event; one that breaks is a failure, and opened again."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    writer: asyncio.StreamWriter | None = None
    while not until.is_set():
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            status, *headers = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in headers if line.startswith(b"content-length:"))
            answer = orjson.loads(await reader.readexactly(length))
            if b" 200 " in status:
                seen.answers.append((time.monotonic(), answer["request_id"][:PREFIX], answer["model_version"]))
            else:
                seen.failed += 1
        except (asyncio.IncompleteReadError, OSError):
            seen.failed += 1
            writer = None
        await asyncio.sleep(EVERY_SECONDS)
    if writer is not None:
        writer.close()


async def move(bundles: Path, action: str, *options: str) -> Move:
    """Type the command, and wait until every worker has had time to follow."""
    started, before = time.monotonic(), (bundles / "live").stat().st_mtime_ns
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")}
    process = await asyncio.create_subprocess_exec(
        *RECSYS, "rollback", *options, "--data-dir", str(bundles.parent), stdout=subprocess.DEVNULL, env=environment
    )
    moved = None
    while moved is None:
        if process.returncode not in (None, 0):
            raise UserError(f"recsys rollback {' '.join(options)} fails")
        if (bundles / "live").stat().st_mtime_ns != before:
            moved = time.monotonic()
        await asyncio.sleep(0.002)
    await process.wait()
    returned = time.monotonic()
    await asyncio.sleep(SETTLE_SECONDS)
    return Move(action, started, moved, returned, live_version(bundles) or "")


async def moves(bundles: Path, port: int, path: str, rounds: int) -> tuple[list[Move], Seen]:
    """All of them, watched."""
    seen, until = Seen(), asyncio.Event()
    watchers = [asyncio.create_task(watch(port, path, seen, until)) for _ in range(WATCHERS)]
    await asyncio.sleep(SETTLE_SECONDS)
    done = []
    for _ in range(rounds):
        done.append(await move(bundles, "rollback"))
        done.append(await move(bundles, "rollback of the rollback", "--undo"))
    until.set()
    await asyncio.gather(*watchers)
    return done, seen


def followed(one: Move, seen: Seen) -> float:
    """When the last worker had followed: the last answer of another version, or the command's start where none came later.

    Raises:
        UserError: a worker did not follow, or not all were watched.
    """
    after = [answer for answer in seen.answers if one.started <= answer[0] <= one.returned + SETTLE_SECONDS]
    late = [at for at, _, version in after if version != one.version]
    last = max(late, default=one.started)
    if {worker for at, worker, _ in after if at > last} != seen.workers or len(seen.workers) != WORKERS:
        raise UserError(f"of {WORKERS} workers, {len(seen.workers)} were watched, and not all of them followed in time")
    return last


def keep_busy(server: Server, core: int, paths: Sequence[str], scratch: Path, done: threading.Event) -> Load:
    """Ask as fast as the workers answer, until the event."""
    runs = []
    while not done.is_set():
        runs.append(load(server, core, paths, LOAD_SECONDS, scratch))
    return together(runs)


def measure(
    server: Server, core: int, bundles: Path, paths: Sequence[str], rounds: int, scratch: Path
) -> tuple[list[Move], Seen, Load]:
    """Roll back and forth under load."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        under = pool.submit(keep_busy, server, core, paths, scratch, over)
        try:
            done, seen = asyncio.run(moves(bundles, server.port, paths[0], rounds))
        finally:
            over.set()
        return done, seen, under.result()


def tables(done: Sequence[Move], seen: Seen, under: Load, note: str) -> list[Table]:
    """What was measured, beside what was aimed at."""
    rows: list[list[Cell]] = []
    for action in dict.fromkeys(one.action for one in done):
        some = [one for one in done if one.action == action]
        whole = [followed(one, seen) - one.started for one in some]
        swap = [max(0.0, followed(one, seen) - one.pointer_moved) for one in some]
        rows.append([action, len(some), *(round(f(times), 2) for times in (whole, swap) for f in (median, max))])
    columns = ["what", "times", "s to every worker, median", "largest", "s from the pointer's move, median", "largest"]
    figures: list[list[Cell]] = [
        ["requests under way that failed, of wrk", under.failed, "0"],
        ["requests under way that failed, of the watchers", seen.failed, "0"],
        ["requests answered by wrk's connections, each second", round(under.per_second), None],
        ["requests answered by the watchers", len(seen.answers), None],
        ["p99 of wrk's, ms", round(under.p99_ms, 1), None],
        [
            "slowest to reach every worker, s",
            round(max(followed(one, seen) - one.started for one in done), 2),
            f"at most {TARGET_SECONDS:g}",
        ],
    ]
    return [
        Table(
            "From the command to the last worker",
            columns,
            rows,
            note=f"From typing `recsys rollback` to the last answer of the other version, in any of {WORKERS} workers. {note}",
        ),
        Table("Under full load, beside its targets", ["figure", "value", "target"], figures),
    ]


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=5, help="a rollback and its undoing each")
    parser.add_argument("--trial", action="store_true", help="print only: reports/ stays as it is")
    arguments = parser.parse_args()
    newest = list(newest_bundles(arguments.data_dir / "bundles").values())
    if len(newest) < 2:
        raise UserError("two bundles are needed, of different phases: run `recsys train --phase 1`, and `--phase 2`")
    cores, (old, new) = pick_cores(), (newest[0], newest[-1])
    questions = make_questions(old, user_ids(arguments.data_dir))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        bundles = scratch / "data" / "bundles"
        bundles.mkdir(parents=True)
        for bundle in (old, new):
            (bundles / bundle.name).symlink_to(bundle.resolve())
            publish(bundles, bundle.name, reason="benchmark", force="benchmark")
        port = free_port()
        command = [
            *RECSYS[1:],
            "serve",
            "--port",
            str(port),
            "--workers",
            str(WORKERS),
            "--data-dir",
            str(bundles.parent),
        ]
        with running(cores.server, port, "/health/ready", command) as server:
            tell(server, questions.events)
            done, seen, under = measure(server, cores.client, bundles, questions.mixed, arguments.rounds, scratch)
    found = tables(done, seen, under, f"From {new.name} to {old.name} and back; the workers and Redis share a core.")
    for table in found:
        show(table)
    if not arguments.trial:
        print(
            f"\nwritten: {write_report('rollback', f'python -m benchmarks.rollback --rounds {arguments.rounds}', found)}"
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
