"""What it costs to ask who asks: `/recommend` of one bundle, open, with a key, and with a key whose use is counted, under the same load from wrk.

`python -m benchmarks.keys --data-dir data --seconds 10`. Each is measured once in every round, so that a busy machine is busy for all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.load import CONNECTIONS, K, Load, load, pick_cores, together, user_ids
from benchmarks.serve import REQUESTS, WARM_UP_SECONDS, make_questions, newest_bundles, show
from benchmarks.servers import service
from recsys.errors import UserError
from recsys.reports import Cell, Table, write_report
from service.keys import KEYS_FILE, Role, create_key

UNREACHED: Final = "1000000000/minute"
KINDS: Final = ("open", "with a key", "with a key and a limit")


def measure(bundle: Path, users: list[str], seconds: int, rounds: int) -> dict[str, Load]:
    """Serve the bundle open and with keys at once, and ask one after the other."""
    cores, paths = pick_cores(), make_questions(bundle, users).mixed
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        now = datetime.now(UTC)
        keys = {
            KINDS[1]: create_key(scratch / "closed" / KEYS_FILE, "plain", Role.SERVER, now),
            KINDS[2]: create_key(scratch / "closed" / KEYS_FILE, "counted", Role.SERVER, now, UNREACHED),
        }
        opened = stack.enter_context(service(cores.server, bundle, scratch / "open"))
        closed = stack.enter_context(service(cores.server, bundle, scratch / "closed"))
        runs: dict[str, list[Load]] = defaultdict(list)
        for number in range(rounds + 1):
            for kind in KINDS:
                server = closed if kind in keys else opened
                length = seconds if number else WARM_UP_SECONDS
                run = load(server, cores.client, paths, length, scratch, keys.get(kind))
                if number:
                    runs[kind].append(run)
        return {kind: together(found) for kind, found in runs.items()}


def table(loads: dict[str, Load], rounds: int, version: str) -> Table:
    """What was measured, and the time that a request takes more than one to an open service."""
    base = loads[KINDS[0]].per_second
    rows: list[list[Cell]] = [
        [
            kind,
            round(run.per_second),
            round(run.p50_ms, 2),
            round(run.p99_ms, 2),
            round(1e6 / run.per_second - 1e6 / base, 1),
            run.failed,
        ]
        for kind, run in loads.items()
    ]
    return Table(
        "What keys and limits cost",
        ["/recommend", "requests/s", "p50, ms", "p99, ms", "more of the core per request, µs", "not 2xx"],
        rows,
        note=f"k = {K}, surfaces mixed, {CONNECTIONS} connections of wrk on another core, {REQUESTS:,} different requests, "
        f"medians of {rounds} alternating rounds; bundle {version}.",
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
    loads = measure(bundle, user_ids(arguments.data_dir), arguments.seconds, arguments.rounds)
    found = table(loads, arguments.rounds, bundle.name)
    show(found)
    if not arguments.trial:
        command = f"python -m benchmarks.keys --seconds {arguments.seconds} --rounds {arguments.rounds}"
        print(f"\nwritten: {write_report('keys', command, [found])}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
