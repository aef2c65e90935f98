"""What one core of the service bears, and what it does when it is asked for more: 1, 2, 5 and 10 times its rated load.

`python -m benchmarks.load_test`. The generator is our own (`benchmarks/open_loop.py`): an open loop as wrk2's, which keeps every answer, so that
all of them can be looked at. The service, with its Redis, has one core, the generator another.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import uvloop

from benchmarks.crowd import NO_ANSWER, Answered, Crowd, Question, Sum, back_to_normal, look_at, sum_up
from benchmarks.load import pick_cores, user_ids
from benchmarks.open_loop import Sender
from benchmarks.serve import command, newest_bundles
from benchmarks.servers import Server, service
from benchmarks.stage import switch_off
from recsys.bundle import load_bundle
from recsys.errors import UserError
from recsys.reports import Cell, Table, show, write_report
from tests.shop import N_USERS, write_tiny_bundle

P99_MS: Final = 50.0
"""At the rated load, at most."""
OVERLOAD_P99_MS: Final = 100.0
"""Of what is answered at more than that, at most."""
FULL: Final = 0.99
"""Of the answers at the rated load come from the best rung, and of the requests are answered, at least."""
FIRST_RATE: Final = 50.0
LEAST_RATE: Final = 5.0
BISECTIONS: Final = 3
TIMES: Final = (1, 2, 5, 10)
NORMAL_SHARE: Final = 0.8
"""Of the rated load is offered after each overload, until all is as it was."""
RECOVERY_SECONDS: Final = 30.0
CONNECTIONS: Final = 1_000
"""The generator's, at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long."""

    trial: float = 5.0
    """Seconds of each rate that is tried."""
    overload: float = 10.0
    """Seconds of each multiple."""
    recovery: float = 15.0
    """Seconds afterwards in which all should be as before."""


DEFAULT: Final = Plan()


@dataclass(frozen=True, slots=True)
class Offered:
    """A load and what came of it."""

    rate: float
    """Requests a second."""
    seconds: float
    answers: list[Answered]
    core: float = float("nan")
    """Share of a core that the service had; less than all of it under overload means that others had the rest."""

    def total(self) -> Sum:
        """Of all answers."""
        return sum_up(self.answers)

    @property
    def goodput(self) -> float:
        """Valid answers a second."""
        return sum(answer.valid for answer in self.answers) / self.seconds

    def is_borne(self) -> bool:
        """Whether the service does all that it should at this rate."""
        total = self.total()
        return total.valid >= FULL * total.n and total.degraded <= 1 - FULL and total.p99_ms <= P99_MS


class Offering:
    """Offers loads to one service."""

    def __init__(self, server: Server, crowd: Crowd) -> None:
        self._server = server
        self._crowd = crowd
        self._rng = np.random.default_rng(0)
        self._questions = crowd.asking()

    def offer(self, rate: float, seconds: float) -> Offered:
        """Questions at a rate."""
        sender: Sender[Question] = Sender("127.0.0.1", self._server.port, self._questions, CONNECTIONS)
        began, spent = time.perf_counter(), self._server.core_seconds()
        replies = uvloop.run(sender.run(rate, seconds, self._rng))
        core = (self._server.core_seconds() - spent) / (time.perf_counter() - began)
        return Offered(rate, seconds, look_at(replies, self._crowd), core)


def find_rated(offering: Offering, plan: Plan) -> tuple[float, list[Offered]]:
    """The highest rate that is borne, by doubling (or halving, where the first is too much) and then bisection, and all that was tried.

    What is not borne is tried once more: others use the machine too, and one moment of theirs is no limit of the service's.

    Raises:
        UserError: not even `LEAST_RATE` is.
    """
    tried: list[Offered] = []

    def is_borne(rate: float) -> bool:
        for _ in range(2):
            tried.append(offering.offer(rate, plan.trial))
            if tried[-1].is_borne():
                return True
        return False

    low, high = 0.0, FIRST_RATE
    while is_borne(high):
        low, high = high, 2 * high
    while low == 0.0:
        if high / 2 < LEAST_RATE:
            raise UserError(f"{high:.0f} requests a second are too many: {tried[-1].total()}")
        low, high = (high / 2, high) if is_borne(high / 2) else (0.0, high / 2)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_borne(middle) else (low, middle)
    return low, tried


def recovery(after: Offered) -> float | None:
    """Seconds after which all is answered as at the rated load; None where that is not in time."""

    def is_normal(start: float, end: float) -> bool:
        found = sum_up([answer for answer in after.answers if start <= answer.due < end])
        return found.valid == found.n and found.degraded <= 1 - FULL and found.p99_ms <= P99_MS

    return back_to_normal(0.0, after.seconds, is_normal)


@contextmanager
def started(data_dir: Path | None, core: int, environment: Mapping[str, str]) -> Iterator[tuple[Server, Crowd]]:
    """A service on one core, with the newest bundle (of a tiny shop without a data directory), and who asks it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-", dir="/tmp")))
        if data_dir is None:
            bundle, users = write_tiny_bundle(folder / "tiny"), [f"household-{number:02}" for number in range(N_USERS)]
        else:
            newest = newest_bundles(data_dir / "bundles")
            bundle, users = newest[max(newest)], user_ids(data_dir)
        server = stack.enter_context(service(core, bundle, folder / "data", environment))
        crowd = Crowd.of(load_bundle(bundle), users, f"127.0.0.1:{server.port}", np.random.default_rng(0))
        switch_off(server.port, crowd.switched_off)
        yield server, crowd


@dataclass(frozen=True, slots=True)
class Found:
    """All that a load test found."""

    rated: float
    tried: list[Offered]
    overloads: list[tuple[int, Offered, float | None]]
    """How many times the rated load, what came of it, and the seconds until all was as before."""


def run(offering: Offering, plan: Plan, times: Sequence[int] = TIMES) -> Found:
    """Find the rated load, offer multiples of it, and see how long the service takes to be as before."""
    offering.offer(FIRST_RATE, plan.trial)  # nobody's first second
    rated, tried = find_rated(offering, plan)
    overloads = []
    for multiple in times:
        over = offering.offer(multiple * rated, plan.overload)
        after = offering.offer(NORMAL_SHARE * rated, plan.recovery)
        overloads.append((multiple, over, recovery(after)))
    return Found(rated, tried, overloads)


def tables(found: Found, plan: Plan) -> list[Table]:
    """What was found, beside what was aimed at."""
    ordered = sorted(found.tried, key=lambda offered: offered.rate)
    searched: list[list[Cell]] = []
    for offered in ordered:
        total = offered.total()
        figures: list[Cell] = [round(total.p99_ms, 1), round(100 * total.degraded, 1), total.n - total.valid]
        searched.append([round(offered.rate), round(offered.goodput), *figures, offered.is_borne()])
    rows: list[list[Cell]] = []
    for multiple, over, seconds in found.overloads:
        total = over.total()
        unanswered = total.problems[NO_ANSWER]
        wrong = total.n - total.valid - total.refused - unanswered
        rows.append(
            [
                f"{multiple} x",
                round(over.rate),
                round(over.goodput),
                round(over.goodput / found.rated, 3),
                total.refused,
                total.server_errors,
                unanswered,
                wrong,
                round(100 * total.degraded, 1),
                round(total.p99_ms, 1),
                round(total.lag_ms, 1),
                round(over.core, 2),
                f"more than {plan.recovery:.0f}" if seconds is None else seconds,
            ]
        )
    rated_note = (
        f"Borne: p99 at most {P99_MS:.0f} ms, at least {FULL:.0%} answered, at most {1 - FULL:.0%} of them from a cheaper rung. "
        f"{plan.trial:.0f} s each, once more where it is not, at random moments, whether or not answers come; latency counts from when a request was due."
    )
    overload_note = (
        "Goodput: valid answers a second. Valid: k items or the shortfall said, none twice, all of them on sale, with title and reason. "
        f"{plan.overload:.0f} s each; after it {NORMAL_SHARE:.0%} of the rated load for {plan.recovery:.0f} s: normal: from the first of two seconds on in which all is answered, from the best rung but for "
        f"{1 - FULL:.0%}, p99 at most {P99_MS:.0f} ms. Targets: goodput at least 90% of rated, no 5xx, no answer that is not valid, p99 at most {OVERLOAD_P99_MS:.0f} ms, normal within {RECOVERY_SECONDS:.0f} s."
    )
    return [
        Table(
            f"The rated load of one core: {found.rated:.0f} requests/s",
            ["offered, requests/s", "answered/s", "p99, ms", "from a cheaper rung, %", "not answered", "borne"],
            searched,
            rated_note,
        ),
        Table(
            "More than the rated load",
            [
                "load", "offered, requests/s", "goodput/s", "goodput, ratio to rated", "refused (429)", "5xx", "no answer in time", "broken, or not valid",
                "from a cheaper rung, %", "p99 of answers, ms", "p99 by which the generator itself was late, ms", "of its core the service had", "seconds until normal",
            ],
            rows,
            overload_note,
        ),
    ]  # fmt: skip


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--tiny", action="store_true", help="the tests' shop instead of trained bundles")
    parser.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT.overload,
        help="of each overload; half of it for each rate that is tried",
    )
    parser.add_argument("--trial", action="store_true", help="print only: reports/ stays as it is")
    arguments = parser.parse_args()
    cores, began = pick_cores(), time.perf_counter()
    os.sched_setaffinity(0, {cores.client})
    plan = Plan(arguments.seconds / 2, arguments.seconds, DEFAULT.recovery)
    with started(None if arguments.tiny else arguments.data_dir, cores.server, {}) as (server, crowd):
        found = tables(run(Offering(server, crowd), plan), plan)
    for table in found:
        show(table)
    print(f"\n{(time.perf_counter() - began) / 60:.1f} minutes")
    if not arguments.trial:
        print(f"written: {write_report('load', command('benchmarks.load_test'), found)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
