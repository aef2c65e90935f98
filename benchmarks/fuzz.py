"""A million random requests under random rules on random catalogues: what is shown may be shown, once, and nothing is missing.

`python -m benchmarks.fuzz --requests 1000000`. Every answer is judged by `benchmarks.fuzz_rules`, which shares no code with the rules.
Exits with 1 where an answer is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import track

from benchmarks.fuzz_rules import KINDS, run
from recsys.reports import Table, write_report

PART = 5_000


def main() -> None:
    """Run, print, and write `reports/fuzz.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    console = Console()
    sizes = [PART] * (given.requests // PART) + [given.requests % PART] * bool(given.requests % PART)
    seeds = range(given.seed * 1_000_000, given.seed * 1_000_000 + len(sizes))
    tried: Counter[str] = Counter()
    wrong: list[str] = []
    started = time.perf_counter()
    with ProcessPoolExecutor(given.processes) as pool:
        for kinds, problems in track(pool.map(run, sizes, seeds), "requests", len(sizes), console=console):
            tried.update(kinds)
            wrong += problems
    seconds = time.perf_counter() - started
    for problem in wrong[:20]:
        console.print(problem, highlight=False, soft_wrap=True)
    tables = [
        Table(
            "Random requests under random rules",
            ["requests", "wrong answers", "seconds", "processes"],
            [[given.requests, len(wrong), round(seconds, 1), given.processes]],
            note="Wrong: an item that may not be shown, one shown twice, one missing though it may be shown, a cap exceeded, "
            "a quota or pin not met though it could be.",
        ),
        Table("Rules tried, in requests", list(KINDS), [[tried[kind] for kind in KINDS]]),
    ]
    write_report("fuzz", f"python -m benchmarks.fuzz --requests {given.requests}", tables)
    for table in tables:
        console.print(table.title, *table.columns)
        for row in table.rows:
            console.print(*row)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
