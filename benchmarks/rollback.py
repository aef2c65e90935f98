"""How long a rollback and its undoing take to reach every worker, and whether any request fails meanwhile: `make bench-rollback`.

The drill of `recsys reality-check` (`recsys.reality.rollback`), over and over, between the newest bundles of the lowest and the highest
phase: two workers, and connections that ask as fast as they are answered.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.progress import track

from benchmarks.calibrate_simulator import CUT, UNTIL
from benchmarks.serve import newest_bundles
from recsys.errors import UserError
from recsys.reality.rollback import WORKERS, Change, rollback_drill
from recsys.reality.traffic import page_requests
from recsys.reports import Cell, Table, show, write_report
from recsys.simulation.world import World

TARGET_SECONDS: Final = 5.0
REQUESTS: Final = 2_000


def table(changes: list[Change], note: str) -> Table:
    """By command, beside what was aimed at."""
    rows: list[list[Cell]] = []
    for command in dict.fromkeys(one.command for one in changes):
        some = [one for one in changes if one.command == command]
        whole = [one.switched_seconds for one in some]
        swap = [one.switched_seconds - one.pointer_seconds for one in some]
        seconds = [round(of(times), 2) for times in (whole, swap) for of in (median, max)]
        answers, failed = sum(one.answers for one in some), sum(one.failed for one in some)
        met = max(whole) <= TARGET_SECONDS and failed == 0
        rows.append([command, len(some), *seconds, answers, failed, max(round(one.p99_ms) for one in some), met])
    columns = [
        "command",
        "times",
        "s to every worker, median",
        "largest",
        "s from the pointer's move, median",
        "largest ",
    ]
    title = f"Another bundle in every one of {WORKERS} workers, under full load"
    return Table(
        title,
        [*columns, "answers meanwhile", "failed", "p99, ms", f"within {TARGET_SECONDS:g} s, none failed"],
        rows,
        note,
    )


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=3, help="two rollbacks and an undoing each")
    arguments, console = parser.parse_args(), Console()
    newest = list(newest_bundles(arguments.data_dir / "bundles").values())
    if len(newest) < 2:
        raise UserError("two bundles are needed, of different phases: run `recsys train --phase 1`, and `--phase 2`")
    world = World.read(arguments.data_dir / "tables", cut=CUT, until=UNTIL)
    requests = page_requests(world, REQUESTS, seed=0)
    drills = [
        rollback_drill(newest[-1], newest[0], requests, seconds=2.0)
        for _ in track(range(arguments.rounds), "rounds", console=console)
    ]
    note = (
        f"From typing the command to the first answer of the other version from the last worker; between {newest[-1].name} and {newest[0].name}. "
        "Askers, workers and command share the machine's cores."
    )
    found = table([one for drill in drills for one in drill.changes], note)
    show(found, console)
    console.print(
        f"written: {write_report('rollback', f'python -m benchmarks.rollback --rounds {arguments.rounds}', [found])}"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
