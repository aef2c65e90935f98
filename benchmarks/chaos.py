"""One fault after the other under steady load: does every question get a valid answer, and is what was acknowledged kept?

`python -m benchmarks.chaos` (`--only "Redis paused"`, `--data-dir` of trained bundles; the tiny shop of the tests without any). The
service runs as operators run it, two workers with their default patience, on the machine that also asks.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import orjson
import uvloop

from benchmarks.crowd import Answered, Event, Question, back_to_normal, look_at, sum_up
from benchmarks.faults import FAULTS, Fault, libfaketime
from benchmarks.open_loop import Reply, Sender
from benchmarks.serve import command
from benchmarks.stage import Stage, staged
from recsys.errors import UserError
from recsys.reports import Cell, Table, show, write_report
from tests.postgres import find_binaries

NORMAL: Final = 0.05
"""By so much more may be degraded than before the fault: a busy machine makes some answers cheaper at any time."""
GRACE_SECONDS: Final = 6.0
"""For events that wait for a database, and for what a busy machine answers late."""
MOST_SECONDS: Final = 300.0
"""For one fault: some take long to strike, or to be lifted."""
WARM_UP_SECONDS: Final = 2.0
PATIENT: Final = {"RECSYS_QUEUE_MS": "60000", "RECSYS_DEADLINE_MS": "60000", "RECSYS_MAX_INSIDE": "1000"}
"""The service's variables on a machine that others need too: only the fault makes answers cheaper, or has them refused."""
MISSING: Final = {
    "PostgreSQL": "PostgreSQL is not installed here",
    "clock": "libfaketime is not installed here (apt-get install libfaketime)",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How hard and how long."""

    questions: float = 50.0
    """A second."""
    events: float = 20.0
    """A second."""
    before: float = 2.0
    """Seconds."""
    during: float = 5.0
    after: float = 8.0


DEFAULT: Final = Plan()


@dataclass(frozen=True, slots=True)
class Crowded:
    """What a crowd heard."""

    answers: list[Answered]
    told: list[Reply[Event]]


@dataclass(slots=True)
class Outcome:
    """Of one fault."""

    fault: Fault
    crowded: Crowded
    struck: float
    """Seconds after the crowd began."""
    lifted: float
    complaints: list[str]
    lost: int | None = None
    """Acknowledged events that the database lacks."""
    forgotten: int | None = None
    """Stored events that the histories in Redis lack."""

    def acknowledged(self) -> set[str]:
        """Ids of the events that the service said it has."""
        return {reply.asked.event_id for reply in self.crowded.told if is_acknowledged(reply)}

    def problems(self) -> Counter[str]:
        """Of all answers that are not valid, and when it was."""

        def moment(due: float) -> str:
            return "before" if due < self.struck else "during" if due < self.lifted else "after"

        bad = [answer for answer in self.crowded.answers if not answer.valid]
        return Counter(f"{answer.problem} ({moment(answer.due)})" for answer in bad)

    def recovery(self) -> float | None:
        """Seconds from the end of the fault until all is as before it; None where that is not in time."""
        first = [answer for answer in self.crowded.answers if answer.due < self.struck]
        usual = sum_up(first).degraded if any(answer.valid for answer in first) else 0.0

        def is_normal(start: float, end: float) -> bool:
            answers = [answer for answer in self.crowded.answers if start <= answer.due < end]
            told = [reply for reply in self.crowded.told if start <= reply.due < end]
            return (
                all(answer.valid for answer in answers)
                and sum(answer.degraded for answer in answers) <= (usual + NORMAL) * len(answers)
                and all(is_acknowledged(reply) for reply in told)
            )

        return back_to_normal(self.lifted, max(answer.due for answer in self.crowded.answers), is_normal)


def is_acknowledged(reply: Reply[Event]) -> bool:
    """Whether the service said that it has the event."""
    return reply.status == 200 and orjson.loads(reply.body)["rejected"] == 0


def crowd(stage: Stage, name: str, plan: Plan, seconds: float, stop: threading.Event | None = None) -> Crowded:
    """Ask and tell for some seconds, or until told to stop."""
    asking: Sender[Question] = Sender("127.0.0.1", stage.port, stage.crowd.asking())
    telling: Sender[Event] = Sender("127.0.0.1", stage.port, stage.crowd.telling(name, stage.host))

    async def both() -> tuple[list[Reply[Question]], list[Reply[Event]]]:
        return await asyncio.gather(
            asking.run(plan.questions, seconds, np.random.default_rng(1), grace=GRACE_SECONDS, stop=stop),
            telling.run(plan.events, seconds, np.random.default_rng(2), grace=GRACE_SECONDS, stop=stop),
        )

    asked, told = uvloop.run(both())
    return Crowded(look_at(asked, stage.crowd), told)


def suffer(stage: Stage, fault: Fault, plan: Plan) -> Outcome:
    """Let one fault happen under load."""
    print(f"{fault.name}: {fault.how}", flush=True)
    stage.complaints, stop = [], threading.Event()
    with ThreadPoolExecutor(1) as pool:
        began = time.perf_counter()
        heard = pool.submit(crowd, stage, fault.slug, plan, MOST_SECONDS, stop)
        time.sleep(plan.before)
        struck = time.perf_counter() - began
        try:
            with fault.strike(stage):
                time.sleep(max(0.0, began + struck + plan.during - time.perf_counter()))
        except UserError as error:
            stage.complaints.append(str(error))
        lifted = time.perf_counter() - began
        time.sleep(plan.after)
        stop.set()
        return Outcome(fault, heard.result(), struck, lifted, stage.complaints)


def count(stage: Stage, outcomes: Sequence[Outcome]) -> None:
    """Look for the events of these faults in the database and in Redis, when the service has had time to heal."""
    stage.wait_for_healing()
    stored = stage.stored()
    for outcome in outcomes:
        outcome.lost = len(outcome.acknowledged() - stored)
        mine = sum(event_id.startswith(f"{outcome.fault.slug}-") for event_id in stored)
        outcome.forgotten = max(0, mine - stage.in_histories(outcome.fault.slug).total())


def run(
    faults: Sequence[Fault],
    plan: Plan,
    data_dir: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    logs: Path | None = None,
) -> Iterator[Outcome]:
    """Suffer each of them; those that the machine lacks the means for are left out.

    The variables are the service's; its logs are kept in a folder, where one is given.
    """
    for kind in dict.fromkeys(fault.on for fault in faults):
        opened = stage_for(kind, data_dir, environment)
        if opened is None:
            continue
        with opened() as stage:
            crowd(stage, "warm-up", plan, WARM_UP_SECONDS)
            try:
                outcomes = [suffer(stage, fault, plan) for fault in faults if fault.on == kind]
                count(stage, outcomes)
            finally:
                if logs is not None:
                    shutil.copy(stage.log, logs / f"chaos-{kind}.log")
        yield from outcomes


def stage_for(
    kind: str, data_dir: Path | None, environment: Mapping[str, str]
) -> Callable[[], AbstractContextManager[Stage]] | None:
    """What opens the stage that faults of a kind need; None where the machine lacks the means."""
    if kind == "clock":
        library = libfaketime()
        return None if library is None else partial(clocked, data_dir, environment, library)
    if kind == "PostgreSQL" and find_binaries() is None:
        return None
    return partial(staged, data_dir, kind=kind, environment=environment)


@contextmanager
def clocked(data_dir: Path | None, environment: Mapping[str, str], library: Path) -> Iterator[Stage]:
    """A stage whose service reads its clock through libfaketime, from a file; its steady clock is the machine's."""
    with tempfile.NamedTemporaryFile("w", prefix="clock-", dir="/tmp") as clock:
        clock.write("+0")
        clock.flush()
        faked = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": clock.name,
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its mend for an old libc has every wait for Python's lock end at the wrong time: threads took ten times as long.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        with staged(data_dir, environment={**environment, **faked}) as stage:
            yield stage


def table(outcomes: Sequence[Outcome], faults: Sequence[Fault], plan: Plan) -> Table:
    """A row for each fault."""
    rows: list[list[Cell]] = [row(outcome) for outcome in outcomes]
    done = {outcome.fault.name for outcome in outcomes}
    columns = [
        "fault", "by which means", "answers asked for", "valid, %", "degraded during the fault, %", "p99 during the fault, ms",
        "seconds to recover", "events sent", "acknowledged", "acknowledged and lost", "stored and not in the histories", "remarks",
    ]  # fmt: skip
    rows += [
        [fault.name, fault.how, *[None] * (len(columns) - 3), f"not done: {MISSING[fault.on]}"]
        for fault in faults
        if fault.name not in done
    ]
    note = (
        f"{plan.questions:.0f} questions and {plan.events:.0f} events a second, sent whether or not answers come; {plan.before:.0f} s before, {plan.during:.0f} s with and "
        f"{plan.after:.0f} s after each fault. Valid: k items or the shortfall said, none twice, all of them on sale, with title and reason; a refusal (429) is not valid. Valid are all answers asked for from "
        f"before the fault to after it. Recovered: from the first of two seconds in which all is valid, all events are acknowledged, and at most {NORMAL:.0%} more is degraded than before the fault. "
        "Events are counted in the database and in Redis afterwards. A question whose connection breaks is asked once more, as browsers do. Targets: 100% valid, 0 lost."
    )
    return Table("Faults under steady load", columns, rows, note)


def row(outcome: Outcome) -> list[Cell]:
    """What is said of one fault."""
    answers = outcome.crowded.answers
    whole = sum_up(answers)
    faulty = sum_up([answer for answer in answers if outcome.struck <= answer.due < outcome.lifted])
    again = sum(answer.again for answer in answers)
    remarks = [*outcome.complaints, *(f"{n} times {problem}" for problem, n in outcome.problems().most_common())]
    remarks += [f"{again} asked once more"] if again else []
    recovery = outcome.recovery()
    return [
        outcome.fault.name,
        outcome.fault.how,
        whole.n,
        f"{100 * whole.valid / whole.n:.3f}",
        round(100 * faulty.degraded, 1),
        round(faulty.p99_ms, 1),
        "not in time" if recovery is None else recovery,
        len(outcome.crowded.told),
        len(outcome.acknowledged()),
        outcome.lost,
        outcome.forgotten,
        "; ".join(remarks),
    ]


def main() -> None:
    """Suffer, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--tiny", action="store_true", help="the tests' shop instead of trained bundles")
    parser.add_argument("--only", action="append", help="a fault's name; reports/ stays as it is", metavar="FAULT")
    parser.add_argument("--questions", type=float, default=DEFAULT.questions, help="a second")
    parser.add_argument("--seconds", type=float, default=DEFAULT.during, help="of each fault")
    parser.add_argument("--logs", type=Path, help="a folder that keeps the service's logs")
    parser.add_argument(
        "--busy", action="store_true", help="others need this machine too: no answer gets cheaper for its load"
    )
    parser.add_argument("--trial", action="store_true", help="print only: reports/ stays as it is")
    arguments = parser.parse_args()
    faults = [fault for fault in FAULTS if not arguments.only or fault.name in arguments.only]
    if not faults:
        raise UserError(f"no such fault; there are: {', '.join(fault.name for fault in FAULTS)}")
    plan = Plan(questions=arguments.questions, during=arguments.seconds)
    began = time.perf_counter()
    data_dir, environment = None if arguments.tiny else arguments.data_dir, PATIENT if arguments.busy else {}
    outcomes = list(run(faults, plan, data_dir, environment, arguments.logs))
    found = table(outcomes, faults, plan)
    show(found)
    print(f"\n{(time.perf_counter() - began) / 60:.1f} minutes")
    if not arguments.only and not arguments.trial:
        print(f"written: {write_report('chaos', command('benchmarks.chaos'), [found])}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
