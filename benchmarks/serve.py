"""`/recommend` on the newest bundle of each phase, beside a plain FastAPI route with a constant answer, under the same load from wrk.

`python -m benchmarks.serve --data-dir data --seconds 10`. Every server has the same core, in turn: all routes are measured once in
each round, so that a busy machine is busy for all. Bundles are served from data directories of their own, with a Redis and a log of
their own, so that a benchmark neither moves the live pointer nor leaves anything among a shop's events.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.load import CONNECTIONS, MIX, K, Load, Requests, load, pick_cores, together, user_ids
from benchmarks.servers import Memory, Server, call, constant, service
from recsys.bundle import BundleError, load_bundle, read_manifest
from recsys.errors import UserError
from recsys.events import Surface
from recsys.phases import PHASES
from recsys.publish import bundle_versions
from recsys.ranking import Query
from recsys.reports import Cell, Table, show, write_report

REQUESTS: Final = 20_000
"""Different requests that wrk goes through, then again from the first."""
REQUESTS_BY_SURFACE: Final = 2_000
EVENTS: Final = 5_000
"""That each service is told before it is measured, 1,000 at a time."""
WARM_UP_SECONDS: Final = 3
MODEL_QUERIES: Final = 500
PATHS: Final = frozenset({"--data-dir", "--logs"})
"""Options that name one."""
MIXED: Final = "/recommend, surfaces mixed"
CONSTANT: Final = "constant FastAPI route"
DECLARED: Final = "constant FastAPI route, return type declared"


@dataclass(frozen=True, slots=True)
class Questions:
    """What every phase is asked and told."""

    mixed: list[str]
    by_surface: dict[str, list[str]]
    events: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """What one run of wrk asks."""

    name: str
    phase: int | None
    """None for what is no bundle's."""
    server: Server
    paths: Sequence[str]
    seconds: int


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured; `loads` by name of the route and phase, the rest by phase."""

    loads: Mapping[tuple[str, int | None], Load]
    ready: Mapping[int, float]
    """Seconds from the command to ready."""
    memory: Mapping[int, Memory]
    home_ms: Mapping[int, float]
    """See `home_ms`."""


def newest_bundles(bundles: Path) -> dict[int, Path]:
    """The newest bundle of each phase that has one.

    Raises:
        UserError: no phase has.
    """
    newest = {}
    for version in bundle_versions(bundles):
        try:
            newest[int(read_manifest(bundles / version)["phase"])] = bundles / version
        except BundleError:
            continue  # of an older format
    if not newest:
        raise UserError(f"{bundles} holds no bundle: run `recsys train --phase 1` first")
    return dict(sorted(newest.items()))


def make_questions(bundle: Path, users: Sequence[str]) -> Questions:
    """The bundle is let go of again: memory that this process maps too would be divided between it and the worker."""
    requests = Requests(load_bundle(bundle), users, np.random.default_rng(0))
    by_surface = {str(surface): [requests.path(surface) for _ in range(REQUESTS_BY_SURFACE)] for surface in MIX}
    return Questions(requests.mixed(REQUESTS), by_surface, requests.events(EVENTS))


def home_ms(path: Path) -> float:
    """Median milliseconds of home's model for known users, without HTTP, Redis and JSON."""
    bundle, rng = load_bundle(path), np.random.default_rng(0)
    model, taken = bundle.surfaces[Surface.HOME], []
    for row in rng.integers(len(bundle.histories), size=MODEL_QUERIES).tolist():
        query = Query(history=bundle.histories.of_row(row), region=int(bundle.histories.regions[row]))
        started = time.perf_counter()
        model.recommend(query, K, bundle.catalogue.available)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken) * 1_000.0)


def tell(server: Server, events: Sequence[dict[str, Any]]) -> None:
    """Give the service recent histories.

    Raises:
        UserError: it does not take them.
    """
    for start in range(0, len(events), 1_000):
        status, _answer = call(server.port, "POST", "/events", orjson.dumps(events[start : start + 1_000]))
        if status != 200:
            raise UserError(f"/events answers {status}")


def measure(bundles: Mapping[int, Path], questions: Questions, seconds: int, rounds: int) -> Measured:
    """Serve every bundle and the constant route at once, and ask one after the other."""
    cores = pick_cores()
    alone = {phase: home_ms(bundle) for phase, bundle in bundles.items()}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {
            phase: stack.enter_context(service(cores.server, bundle, scratch / f"phase{phase}"))
            for phase, bundle in bundles.items()
        }
        plain = stack.enter_context(constant(cores.server))
        routes = [
            *(Route(MIXED, phase, server, questions.mixed, seconds) for phase, server in servers.items()),
            Route(CONSTANT, None, plain, ["/recommend"], seconds),
            Route(DECLARED, None, plain, ["/declared"], seconds),
            *(
                Route(surface, phase, server, paths, max(1, seconds // 5))
                for surface, paths in questions.by_surface.items()
                for phase, server in servers.items()
            ),
        ]
        for server in servers.values():
            tell(server, questions.events)
            load(server, cores.client, questions.mixed, WARM_UP_SECONDS, scratch)
        load(plain, cores.client, ["/recommend", "/declared"], WARM_UP_SECONDS, scratch)
        runs: dict[tuple[str, int | None], list[Load]] = defaultdict(list)
        for _ in range(rounds):
            for route in routes:
                run = load(route.server, cores.client, route.paths, route.seconds, scratch)
                runs[route.name, route.phase].append(run)
        return Measured(
            {key: together(found) for key, found in runs.items()},
            {phase: server.ready_seconds for phase, server in servers.items()},
            {phase: server.memory() for phase, server in servers.items()},
            alone,
        )


def tables(measured: Measured, rounds: int, note: str) -> list[Table]:
    """What was measured, beside what was aimed at; `note` says which bundles it was."""
    columns = ["route", "phase", "requests/s", "p50, ms", "p99, ms", "not 2xx"]
    by_surface: list[list[Cell]] = []
    others: list[list[Cell]] = []
    for (name, phase), run in measured.loads.items():
        row: list[Cell] = [name, phase, round(run.per_second), round(run.p50_ms, 2), round(run.p99_ms, 2), run.failed]
        (by_surface if name in MIX else others).append(row)
    how = f"k = {K}, {CONNECTIONS} connections of wrk on another core, medians of {rounds} alternating rounds; "
    return [
        Table(
            "Requests per second on one core",
            columns,
            others,
            note=f"{how}the embedded Redis shares the service's core. {note}",
        ),
        Table(
            "Service, beside its targets",
            ["figure", *(f"phase {phase}" for phase in measured.memory), "target"],
            beside_targets(measured),
        ),
        Table("By surface", columns, by_surface),
    ]


def beside_targets(measured: Measured) -> list[list[Cell]]:
    """A figure, its value for each phase, and the target; what later phases add to phase 1 where both were measured."""
    loads, memory = measured.loads, measured.memory

    def ratio(phase: int, other: str) -> float:
        return round(loads[MIXED, phase].per_second / loads[other, None].per_second, 3)

    rows: list[list[Cell]] = [
        [
            "requests/s, ratio to the constant route",
            *(ratio(p, CONSTANT) for p in memory),
            "phase 1 at least 1, phase 3 at least 0.5",
        ],
        [
            "requests/s, ratio to the constant route with its return type declared",
            *(ratio(p, DECLARED) for p in memory),
            None,
        ],
        ["seconds from the command to ready", *(round(s, 2) for s in measured.ready.values()), "under 3"],
        ["resident memory of the worker, MiB", *(round(m.resident) for m in memory.values()), "under 300"],
        ["proportional memory of the worker, MiB", *(round(m.proportional) for m in memory.values()), None],
    ]
    rows.append(
        ["home's model alone, ms of a core per request", *(round(m, 2) for m in measured.home_ms.values()), None]
    )
    if 1 in memory:
        growth = [None if phase == 1 else round(memory[phase].resident - memory[1].resident) for phase in memory]
        latency = [
            None if phase == 1 else round(loads[MIXED, phase].p50_ms / loads[MIXED, 1].p50_ms, 2) for phase in memory
        ]
        rows += [
            ["resident memory, growth from phase 1, MiB", *growth, "phase 2 at most 100"],
            ["p50 of mixed surfaces, ratio to phase 1", *latency, "phase 2 at most 1.20, phase 3 at most 2"],
        ]
    return rows


def describe(bundles: Mapping[int, Path]) -> str:
    """Which bundles are measured, and what keeps them from being compared."""
    parts = [f"Bundles: {', '.join(bundle.name for bundle in bundles.values())}."]
    if len({read_manifest(bundle)["data"]["fingerprint"] for bundle in bundles.values()}) > 1:
        parts.append("They learnt from different data.")
    parts += [
        f"Phase {phase} is missing: there is no bundle of it (`recsys train --phase {phase}`)."
        for phase in PHASES
        if phase not in bundles
    ]
    return " ".join(parts)


def command(module: str) -> str:
    """This call of a benchmark, as a report has it: without the paths of this machine."""
    words = [word for before, word in itertools.pairwise(sys.argv) if not {before, word} & PATHS]
    return shlex.join(["python", "-m", module, *words])


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seconds", type=int, default=10, help="of each run; a fifth for a single surface")
    parser.add_argument("--rounds", type=int, default=3, help="in each of which every route is measured once")
    parser.add_argument("--trial", action="store_true", help="print only: reports/ stays as it is")
    arguments = parser.parse_args()
    bundles = newest_bundles(arguments.data_dir / "bundles")
    questions = make_questions(next(iter(bundles.values())), user_ids(arguments.data_dir))
    measured = measure(bundles, questions, arguments.seconds, arguments.rounds)
    found = tables(measured, arguments.rounds, describe(bundles))
    for table in found:
        show(table)
    if not arguments.trial:
        command = f"python -m benchmarks.serve --seconds {arguments.seconds} --rounds {arguments.rounds}"
        print(f"\nwritten: {write_report('serve', command, found)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
