"""What it costs to ask who asks: `/recommend` of one bundle, open, with a key, and with a key whose use is counted, under the same load from wrk.

`python -m benchmarks.keys --data-dir data --seconds 10`. Each is measured once in every round, so that a busy machine is busy for all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.load import CONNECTIONS, K, Load, load, pick_cores, together, user_ids
from benchmarks.serve import REQUESTS, WARM_UP_SECONDS, make_questions, newest_bundles, show
from benchmarks.servers import Server, service
from recsys.errors import UserError
from recsys.reports import Cell, Table, write_report
from service.keys import KEYS_FILE, Role, create_key

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


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seconds", type=int, default=10, help="of each run")
    parser.add_argument("--rounds", type=int, default=5, help="in each of which each is measured once")
    parser.add_argument("--trial", action="store_true", help="print only: reports/ stays as it is")
    arguments = parser.parse_args()
    bundle = next(iter(newest_bundles(arguments.data_dir / "bundles").values()))
    runs = measure(bundle, user_ids(arguments.data_dir), arguments.seconds, arguments.rounds)
    found = table(runs, arguments.rounds, bundle.name)
    show(found)
    if not arguments.trial:
        command = f"python -m benchmarks.keys --seconds {arguments.seconds} --rounds {arguments.rounds}"
        print(f"\nwritten: {write_report('keys', command, [found])}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
