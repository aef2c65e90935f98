"""Steady load for half an hour: memory and descriptors of every process stay as they are.

`python -m benchmarks.soak --minutes 30`. Of each process of the service and of its Redis: what it holds before and after, at rest, and the slope
between, by least squares over samples of the second half, when what is filled once (caches, pools, arenas) is full.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from benchmarks.chaos import PATIENT, Crowded, crowd, is_acknowledged
from benchmarks.chaos import Plan as Rates
from benchmarks.crowd import sum_up
from benchmarks.serve import command
from benchmarks.stage import DISK_MIB, Stage, staged
from recsys.errors import UserError
from recsys.reports import Cell, Table, show, write_report

SAMPLE_SECONDS: Final = 2.0
WARM_UP_SECONDS: Final = 20.0
"""Before the first look: pools of connections fill."""
REST_SECONDS: Final = 2.0
"""After the load, for connections to be closed."""
PART_SECONDS: Final = 20.0
"""Answers of so long are kept, then looked at and let go."""
DISK_MIB_A_MINUTE: Final = 20
"""Six times what the log of a minute takes: a full disk is one of the faults of `benchmarks.chaos`, and no soak."""
FLAT_MIB_AN_HOUR: Final = 10.0
"""Memory that grows by less is flat."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one process."""

    at: float
    """Seconds after the start."""
    resident_mib: float
    descriptors: int


def sample(pid: int, at: float) -> Sample:
    """What a process holds now."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = re.search(r"^RssAnon:\s+(\d+)", status, re.MULTILINE)
    assert resident is not None
    return Sample(at, int(resident[1]) / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def slope(samples: Sequence[Sample]) -> float:
    """MiB an hour, over the second half."""
    half = samples[len(samples) // 2 :]
    return float(np.polyfit([s.at for s in half], [s.resident_mib for s in half], 1)[0]) * 3_600


@dataclass(frozen=True, slots=True)
class Found:
    """What a soak found."""

    samples: Mapping[str, list[Sample]]
    """By process; the first and the last at rest, before the load and after it."""
    asked: int
    valid: int
    degraded: int
    problems: Counter[str]
    told: int
    acknowledged: int
    lost: int
    """Acknowledged events that the database lacks."""


def processes(stage: Stage) -> dict[str, int]:
    """Everything that should stay as it is."""
    workers = {f"worker {number}": pid for number, pid in enumerate(sorted(stage.workers()), start=1)}
    return {**workers, "parent": stage.parent, "Redis": stage.redis.pid}


def soak(stage: Stage, rates: Rates, seconds: float) -> Found:
    """Ask and tell, and look at the processes meanwhile."""
    crowd(stage, "soak0", rates, min(WARM_UP_SECONDS, seconds))
    watched = processes(stage)
    samples = {name: [sample(pid, 0.0)] for name, pid in watched.items()}
    asked = valid = degraded = told = 0
    problems: Counter[str] = Counter()
    acknowledged: set[str] = set()
    began = time.perf_counter()
    part = 0
    with ThreadPoolExecutor(1) as pool:
        while (left := began + seconds - time.perf_counter()) > 0:
            part += 1
            heard = pool.submit(crowd, stage, f"soak{part}", rates, min(PART_SECONDS, left))
            while not heard.done():
                for name, pid in watched.items():
                    samples[name].append(sample(pid, time.perf_counter() - began))
                time.sleep(SAMPLE_SECONDS)
            crowded: Crowded = heard.result()
            total = sum_up(crowded.answers)
            asked, valid = asked + total.n, valid + total.valid
            degraded += sum(answer.degraded for answer in crowded.answers)
            problems.update(answer.problem for answer in crowded.answers if answer.problem is not None)
            told += len(crowded.told)
            acknowledged |= {reply.asked.event_id for reply in crowded.told if is_acknowledged(reply)}
    time.sleep(REST_SECONDS)
    for name, pid in watched.items():
        samples[name].append(sample(pid, time.perf_counter() - began))
    lost = len(acknowledged - stage.stored())
    return Found(samples, asked, valid, degraded, problems, told, len(acknowledged), lost)


def tables(found: Found, rates: Rates, minutes: float) -> list[Table]:
    """What was found, beside what was aimed at."""
    rows: list[list[Cell]] = []
    for name, samples in found.samples.items():
        first, last = samples[0], samples[-1]
        figures: list[Cell] = [round(first.resident_mib, 1), round(last.resident_mib, 1), round(slope(samples), 1)]
        rows.append([name, *figures, first.descriptors, last.descriptors, max(s.descriptors for s in samples)])
    note = (
        f"{rates.questions:.0f} questions and {rates.events:.0f} events a second for {minutes:g} minutes. Memory is the process's own (anonymous), without the bundle's files that are mapped. "
        f"The slope is that of the second half. Redis holds what was told, so it grows. Targets: workers' slope under {FLAT_MIB_AN_HOUR:.0f} MiB an hour, as many descriptors after as before, every event acknowledged."
    )
    columns = [
        "process", "memory before, MiB", "after, MiB", "slope, MiB an hour", "descriptors before", "after", "at most, under load",
    ]  # fmt: skip
    problems = "; ".join(f"{n} times: {problem}" for problem, n in found.problems.most_common())
    answers: list[list[Cell]] = [
        [
            found.asked, f"{100 * found.valid / found.asked:.3f}", f"{100 * found.degraded / found.asked:.3f}",
            found.told, found.acknowledged, found.lost, problems,
        ]
    ]  # fmt: skip
    return [
        Table("Memory and descriptors under steady load", columns, rows, note),
        Table(
            "Answers and events of the soak",
            [
                "answers asked for",
                "valid, %",
                "degraded, %",
                "events sent",
                "acknowledged",
                "acknowledged and lost",
                "remarks",
            ],
            answers,
        ),
    ]


def main() -> None:
    """Soak, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--tiny", action="store_true", help="the tests' shop instead of trained bundles")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--busy", action="store_true", help="others need this machine too: no answer gets cheaper for its load"
    )
    parser.add_argument("--trial", action="store_true", help="print only: reports/ stays as it is")
    arguments = parser.parse_args()
    rates = Rates()
    environment = PATIENT if arguments.busy else MappingProxyType({})
    data_dir = None if arguments.tiny else arguments.data_dir
    disk_mib = max(DISK_MIB, math.ceil(DISK_MIB_A_MINUTE * arguments.minutes))
    with staged(data_dir, environment=environment, disk_mib=disk_mib) as stage:
        found = tables(soak(stage, rates, arguments.minutes * 60), rates, arguments.minutes)
    for table in found:
        show(table)
    if not arguments.trial:
        print(f"\nwritten: {write_report('soak', command('benchmarks.soak'), found)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
