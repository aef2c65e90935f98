"""Question 4, timed: a bundle is taken back and brought back while shoppers go on asking, and every answer is looked at."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any, Final

from recsys.reality.money import Serving
from recsys.reality.serving import COMMAND, DrillError, Server, proportional_mib, publish_links, serving
from recsys.reality.traffic import Seen, Traffic, percentile_ms

WORKERS: Final = 2
CONNECTIONS: Final = 12
STEADY_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 60.0
BIN_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Change:
    """Another bundle goes live under traffic."""

    command: str
    version: str
    """That answers afterwards."""
    command_seconds: float
    """Until the command came back."""
    pointer_seconds: float
    """Until the pointer named the other bundle: verified and tried."""
    switched_seconds: float
    """Until every worker answered with it, from the start of the command."""
    answers: int
    """In that time, and until the command was back."""
    failed: int
    """Of these, without an answer."""
    degraded: int
    """Of these, from less than there should have been."""
    p99_ms: float
    timeline: tuple[tuple[float, int, int, int], ...]
    """Second from the start of the command, and answers in the quarter of a second from then on: the other bundle's, this one's, none."""


@dataclass(frozen=True, slots=True)
class RollbackDrill:
    """What was found."""

    ready_seconds: float
    """From the command `recsys serve` to its first answer."""
    workers: int
    steady_answers: int
    steady_p99_ms: float
    serving: Serving
    changes: tuple[Change, ...]

    @property
    def failed(self) -> int:
        """Answers that did not come, in all changes."""
        return sum(change.failed for change in self.changes)


def rollback_drill(
    live: Path, before: Path, requests: Sequence[dict[str, Any]], *, seconds: float = STEADY_SECONDS
) -> RollbackDrill:
    """Serve `live` with two workers under traffic; roll back to `before`, undo that, and roll back again.

    Raises:
        DrillError: the service or a command failed, or not every worker followed.
    """
    with tempfile.TemporaryDirectory(prefix="drill-") as temporary:
        folder = Path(temporary)
        publish_links(folder / "bundles", (before, live))
        with serving(folder, WORKERS) as server:
            return asyncio.run(_drill(server, live.name, before.name, requests, seconds))


async def _drill(
    server: Server, live: str, before: str, requests: Sequence[dict[str, Any]], seconds: float
) -> RollbackDrill:
    async with Traffic(server.url, requests, CONNECTIONS) as traffic:
        await _reach_all(server, traffic)
        await asyncio.sleep(seconds / 2)  # what is mapped is read, what is imported late is there
        started, used = time.time(), server.cpu_seconds()
        await asyncio.sleep(seconds)
        steady, used = traffic.between(started, time.time()), server.cpu_seconds() - used
        changes = [
            await _change(server, traffic, ["rollback"], before),
            await _change(server, traffic, ["rollback", "--undo"], live),
            await _change(server, traffic, ["rollback"], before),
        ]
    memory = {one.pid: proportional_mib(one) for one in server.processes()}
    workers = [one.pid for one in server.workers()]
    cost = Serving(
        pages_per_core_second=sum(not one.failed for one in steady) / used,
        worker_mib=sum(memory[pid] for pid in workers) / len(workers),
        other_mib=sum(memory.values()) - sum(memory[pid] for pid in workers),
    )
    return RollbackDrill(
        server.ready_seconds, len(workers), len(steady), percentile_ms(steady, 99), cost, tuple(changes)
    )


async def _reach_all(server: Server, traffic: Traffic) -> dict[int, int]:
    """The worker of each connection, once there is one to every worker: the first is ready before the others.

    Raises:
        DrillError: some are never reached.
    """
    started = time.time()
    while len(set((found := traffic.workers(server.workers())).values())) < WORKERS:
        if time.time() - started > WAIT_SECONDS:
            raise DrillError(f"{CONNECTIONS} connections do not reach {WORKERS} workers")
        traffic.reconnect()
        await asyncio.sleep(1.0)
    return found


async def _change(server: Server, traffic: Traffic, arguments: Sequence[str], version: str) -> Change:
    """Run a command of an operator, and wait until every worker answers with `version`.

    Raises:
        DrillError: the command failed, or a worker did not follow.
    """
    of_connection = await _reach_all(server, traffic)
    started = time.time()
    command = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        *("--reason", "drill", "--data-dir", str(server.data_dir)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await command.communicate()
    back = time.time()
    if command.returncode != 0:
        raise DrillError(f"recsys {' '.join(arguments)} failed:\n{output.decode(errors='replace')}")
    while (switched := all_switched(traffic.between(started, time.time()), of_connection, version)) is None:
        if time.time() - back > WAIT_SECONDS:
            raise DrillError(f"not every worker answers with {version} after {WAIT_SECONDS:.0f} seconds")
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    seen = traffic.between(started, max(back, switched))
    return Change(
        command=" ".join(("recsys", *arguments)),
        version=version,
        command_seconds=back - started,
        pointer_seconds=(server.data_dir / "bundles" / "live").stat().st_mtime - started,
        switched_seconds=switched - started,
        answers=len(seen),
        failed=sum(one.failed for one in seen),
        degraded=sum(one.degraded for one in seen),
        p99_ms=percentile_ms(seen, 99),
        timeline=_timeline(traffic.between(started - 1.0, time.time()), started, version),
    )


def _timeline(seen: Sequence[Seen], started: float, version: str) -> tuple[tuple[float, int, int, int], ...]:
    """See `Change.timeline`."""
    bins: dict[int, list[int]] = {}
    for one in seen:
        kind = 2 if one.failed else int(one.version == version)
        bins.setdefault(floor((one.answered - started) / BIN_SECONDS), [0, 0, 0])[kind] += 1
    return tuple((at * BIN_SECONDS, *counts) for at, counts in sorted(bins.items()))  # type: ignore[misc]


def all_switched(seen: Sequence[Seen], worker_of: Mapping[int, int], version: str) -> float | None:
    """The moment of the first answer with `version` from the worker that was last to give one; None while one has given none."""
    first: dict[int, float] = {}
    for one in seen:
        worker = worker_of.get(one.connection)
        if worker is not None and one.version == version:
            first[worker] = min(first.get(worker, one.answered), one.answered)
    return max(first.values()) if len(first) == len(set(worker_of.values())) else None
