"""The phase 1 model behind our service, MLflow's model server, BentoML and LitServe: requests per second on one core.

`python -m benchmarks.peers`, with the peers in an environment of their own (`.venv-peers`, see the Makefile). All processes of a server share
one core, wrk has another; every server is measured once in each round. Peers are asked by POST, as their interfaces want it, for the same
answers. They read no recent events, log no exposure and run no experiment: ours does all of that.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import numpy as np
import orjson

from benchmarks.load import CONNECTIONS, K, Load, Requests, load, pick_cores, together, user_ids
from benchmarks.peers.model import BUNDLE
from benchmarks.serve import EVENTS, command, newest_bundles, tell
from benchmarks.servers import Server, call, free_port, service
from recsys.bundle import load_bundle
from recsys.errors import UserError
from recsys.reports import Cell, Table, show, write_report

PYTHON: Final = Path(".venv-peers/bin/python")
STARTUP_SECONDS: Final = 180.0
WARM_UP_SECONDS: Final = 2
REQUESTS: Final = 10_000
RATIO: Final = 5.0
"""Ours beside each of theirs, at least."""
OURS: Final = "this service"
SAVE: Final = (
    "import sys, mlflow; mlflow.pyfunc.save_model(sys.argv[1], python_model='benchmarks/peers/mlflow_model.py')"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server of models."""

    name: str
    package: str
    path: str
    """That answers."""
    health: str
    """That answers when it is ready."""
    command: Callable[[Path, int], Sequence[str]]
    """Arguments of Python, from a scratch folder and a port."""
    wrap: Callable[[Mapping[str, Any]], Any] = lambda question: question
    """A question as its interface wants it."""


PEERS: Final = (
    Peer(
        "MLflow's model server", "mlflow", "/invocations", "/health",
        lambda folder, port: ["-m", "mlflow", "models", "serve", "-m", str(folder / "mlflow"), "-p", str(port), "-h", "127.0.0.1", "--env-manager", "local", "-w", "1"],
        lambda question: {"inputs": [question]},
    ),
    Peer(
        "BentoML", "bentoml", "/recommend", "/healthz",
        lambda _, port: ["-m", "bentoml", "serve", "benchmarks.peers.bento:Served", "--host", "127.0.0.1", "--port", str(port)],
        lambda question: {"question": question},
    ),
    Peer("LitServe", "litserve", "/predict", "/health", lambda _, port: ["-m", "benchmarks.peers.lit", str(port)]),
)  # fmt: skip


def question(path: str) -> dict[str, Any]:
    """A `GET /recommend` as its members."""
    given = parse_qs(urlsplit(path).query)
    found: dict[str, Any] = {name: values[0] for name, values in given.items()}
    return {**found, "k": int(found["k"]), **({"cart": given["cart"]} if "cart" in given else {})}


def version_of(package: str) -> str:
    """As installed in the peers' environment.

    Raises:
        UserError: it is not.
    """
    code = f"from importlib.metadata import version; print(version({package!r}))"
    run = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    if run.returncode:
        raise UserError(f"{package} is not installed in {PYTHON.parent.parent}: make bench-peers installs it")
    return run.stdout.strip()


@contextmanager
def running(peer: Peer, core: int, bundle: Path, folder: Path) -> Iterator[Server]:
    """A peer on one core, from its start until all of its processes are stopped.

    Raises:
        UserError: it does not answer.
    """
    port, began, log = free_port(), time.perf_counter(), folder / f"{peer.package}.log"
    environment = {
        **os.environ, BUNDLE: str(bundle.resolve()), "PYTHONPATH": str(Path.cwd()), "OPENBLAS_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }  # fmt: skip
    if peer.package == "mlflow":
        subprocess.run([PYTHON, "-c", SAVE, str(folder / "mlflow")], env=environment, check=True, capture_output=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), PYTHON, *peer.command(folder, port)],
            env={**environment, "PATH": f"{PYTHON.parent.resolve()}:{os.environ['PATH']}"},
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        while call(port, "GET", peer.health)[0] != 200:
            if process.poll() is not None or time.perf_counter() - began > STARTUP_SECONDS:
                raise UserError(f"{peer.name} does not answer:\n{log.read_text()[-2_000:]}")
            time.sleep(0.1)
        yield Server(process.pid, port, time.perf_counter() - began)
    finally:
        process.terminate()  # BentoML's workers are in sessions of their own: only their parent stops them
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check(server: Server, peer: Peer, asked: Mapping[str, Any]) -> None:
    """Ask once.

    Raises:
        UserError: the answer does not hold what was asked for.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", peer.path, orjson.dumps(peer.wrap(asked)), {"content-type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200 or body.count(b'"item_id"') != asked["k"]:
        raise UserError(f"{peer.name} answers {response.status}: {body[:500].decode(errors='replace')}")


def measure(
    bundle: Path,
    paths: Sequence[str],
    events: Sequence[dict[str, Any]],
    peers: Sequence[Peer],
    seconds: int,
    rounds: int,
) -> dict[str, Load]:
    """Every server in turn, each on the same core, all of them up at the same time."""
    cores = pick_cores()
    questions = [question(path) for path in paths]
    full = next(asked for asked in questions if asked["surface"] == "home")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-", dir="/tmp")))
        ours = stack.enter_context(service(cores.server, bundle, scratch / "ours"))
        tell(ours, events)
        routes: list[tuple[str, Server, Sequence[str]]] = [(OURS, ours, paths)]
        for peer in peers:
            server = stack.enter_context(running(peer, cores.server, bundle, scratch))
            check(server, peer, full)
            bodies = [f"{peer.path}\t{orjson.dumps(peer.wrap(asked)).decode()}" for asked in questions]
            routes.append((peer.name, server, bodies))
        for _, server, lines in routes:
            load(server, cores.client, lines, WARM_UP_SECONDS, scratch)
        runs: dict[str, list[Load]] = defaultdict(list)
        for _ in range(rounds):
            for name, server, lines in routes:
                runs[name].append(load(server, cores.client, lines, seconds, scratch))
        return {name: together(found) for name, found in runs.items()}


def table(measured: Mapping[str, Load], versions: Mapping[str, str], rounds: int, bundle: str) -> Table:
    """Ours beside theirs."""
    ours = measured[OURS].per_second
    rows: list[list[Cell]] = []
    for name, run in measured.items():
        ratio = None if name == OURS else round(ours / run.per_second, 2)
        figures: list[Cell] = [round(run.per_second), round(run.p50_ms, 2), round(run.p99_ms, 2), run.failed]
        rows.append([name, versions.get(name), *figures, ratio])
    note = (
        f"The same model ({bundle}) and the same questions, k = {K}, {CONNECTIONS} connections of wrk on another core; all processes of a server share one core; medians of {rounds} alternating rounds. "
        f"Peers only rank and write JSON; ours also reads recent events from Redis, assigns arms, gives reasons and logs exposures. Target: ours at least {RATIO:.0f} times each."
    )
    columns = ["server", "version", "requests/s", "p50, ms", "p99, ms", "not 2xx", "ours is so many times as fast"]
    return Table("The same model behind other model servers", columns, rows, note)


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seconds", type=int, default=10, help="of each run of wrk")
    parser.add_argument("--rounds", type=int, default=3, help="in each of which every server is measured once")
    parser.add_argument("--only", choices=[peer.package for peer in PEERS], help="one peer; reports/ stays as it is")
    parser.add_argument("--trial", action="store_true", help="print only: reports/ stays as it is")
    arguments = parser.parse_args()
    peers = [peer for peer in PEERS if arguments.only in (None, peer.package)]
    versions = {peer.name: version_of(peer.package) for peer in peers}
    bundles = newest_bundles(arguments.data_dir / "bundles")
    if 1 not in bundles:
        raise UserError("there is no bundle of phase 1: run `recsys train --phase 1` first")
    began = time.perf_counter()
    requests = Requests(load_bundle(bundles[1]), user_ids(arguments.data_dir), np.random.default_rng(0))
    paths, events = requests.mixed(REQUESTS), requests.events(EVENTS)
    found = table(
        measure(bundles[1], paths, events, peers, arguments.seconds, arguments.rounds),
        versions,
        arguments.rounds,
        bundles[1].name,
    )
    show(found)
    print(f"\n{(time.perf_counter() - began) / 60:.1f} minutes")
    if not arguments.only and not arguments.trial:
        print(f"written: {write_report('peers', command('benchmarks.peers'), [found])}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
