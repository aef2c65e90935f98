"""The service killed again and again under load: is an acknowledged event ever lost, or counted twice?"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import orjson
import redis
from rich.console import Console
from sqlalchemy import func, select

from pipelines.ingest import connect, ingest, ingest_log
from pipelines.run import build_tables
from recsys.ids import hash_id
from recsys.store.database import database_url, opened, reading
from recsys.store.schema import EVENTS
from service.embedded_redis import socket_url
from service.healing import HEAL_SECONDS
from service.session_store import RECORD
from tests.shop import free_port

SINGLES: Final = 3
"""Clients that send one event at a time."""
BATCHES: Final = 2
"""Clients that send many."""
BATCH: Final = 40
USERS: Final = 40
"""Of each round. Each has one session, which is anonymous at first."""
QUIET: Final = Console(quiet=True)
READY_SECONDS: Final = 90.0


@dataclass(slots=True)
class Findings:
    """What was found in the end. The sets hold event ids."""

    kills: int = 0
    acknowledged: set[str] = field(default_factory=set)
    lost_at_kill: set[str] = field(default_factory=set)
    """Acknowledged, and right after a kill not in the history that the next request would have read."""
    lost: dict[str, int] = field(default_factory=dict)
    """By place: database, histories, tables."""
    doubled: dict[str, int] = field(default_factory=dict)
    retried: int = 0
    """Requests that had to be sent again."""


@dataclass(slots=True)
class Round:
    """What was sent between two kills."""

    number: int
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)


def make_event(round_: int, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """An event of an item of its own, of a user, of their session before or after the login."""
    user = int(rng.integers(USERS))
    who = {"user_id": f"u{round_}-{user}", "session_id": f"s{round_}-{user}"}
    left_out = (None, "user_id", "session_id")[int(rng.integers(3))]
    given = {name: value for name, value in who.items() if name != left_out}
    event_id = f"e{round_}-{number}"
    return {"event_id": event_id, "type": "view", "item_id": f"item of {event_id}", **given}


class Service(Protocol):
    """Something to kill. Its Redis outlives it."""

    port: int

    def start(self) -> None:
        """Bring it up; it need not be ready yet."""
        ...

    def kill(self) -> None:
        """SIGKILL to all of its processes; return when they are gone."""
        ...

    def stop(self) -> None:
        """Let it end as it should."""
        ...


class Served:
    """`recsys serve`, as an operator starts it."""

    def __init__(self, data_dir: Path, workers: int, url: str | None) -> None:
        self.port = free_port()
        self._log = data_dir / "service.log"
        self._command = [
            sys.executable,
            "-c",
            "from recsys.cli import main; main()",
            "serve",
            "--workers",
            str(workers),
        ]
        self._command += ["--port", str(self.port), "--data-dir", str(data_dir)]
        self._environment = environment_for(url)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """See `Service`."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )

    def kill(self) -> None:
        """See `Service`."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """See `Service`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)


def environment_for(url: str | None) -> dict[str, str]:
    """This process's own, without what names another shop's database and Redis."""
    names = ("REDIS_URL", "DATABASE_URL")
    inherited = {k: v for k, v in os.environ.items() if k not in names and not k.startswith("RECSYS_")}
    named = {} if url is None else {"DATABASE_URL": url}
    return {**inherited, "RECSYS_REDIS_TIMEOUT_MS": "5000", "RECSYS_HISTORY_EVENTS": "4000", **named}


class Ordeal:
    """A service, its clients, and the ledger of what it has acknowledged."""

    def __init__(self, service: Service, data_dir: Path, url: str | None, seed: int) -> None:
        self._service = service
        self._data_dir = data_dir
        self._url = url
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self.rounds: list[Round] = []
        self.findings = Findings()

    def run(self, kills: int, seconds: tuple[float, float]) -> Findings:
        """Kill the service `kills` times, each time so many seconds after it has come up, then check everything.

        Raises:
            RuntimeError: it does not come up.
        """
        self._start()
        for number in range(kills):
            round_ = Round(number)
            self.rounds.append(round_)
            stop = threading.Event()
            clients = self._clients(round_, stop)
            time.sleep(float(self._rng.uniform(*seconds)))
            self._service.kill()
            with self._lock:
                acknowledged = set(round_.acknowledged)
            self._check_histories_now(round_, acknowledged)
            stop.set()  # what is on its way is sent again until it is acknowledged
            self._start()
            for client in clients:
                client.join()
            self.findings.kills += 1
        self._check()
        self._service.stop()
        self._check_tables()
        return self.findings

    def _start(self) -> None:
        self._service.start()
        deadline = time.monotonic() + READY_SECONDS
        while self._call("GET", "/health/ready")[0] != 200:
            if time.monotonic() > deadline:
                raise RuntimeError("the service does not answer")
            time.sleep(0.1)

    # Clients

    def _clients(self, round_: Round, stop: threading.Event) -> list[threading.Thread]:
        sizes = [1] * SINGLES + [BATCH] * BATCHES
        seeds = self._rng.integers(2**32, size=len(sizes)).tolist()
        clients = [
            threading.Thread(target=self._client, args=(round_, stop, number, size, seed))
            for number, (size, seed) in enumerate(zip(sizes, seeds, strict=True))
        ]
        for client in clients:
            client.start()
        return clients

    def _client(self, round_: Round, stop: threading.Event, client: int, size: int, seed: int) -> None:
        rng, sent = np.random.default_rng(seed), 0
        while not stop.is_set():
            events = [make_event(round_.number, client * 10**7 + sent + n, rng) for n in range(size)]
            sent += size
            with self._lock:
                round_.sent |= {event["event_id"]: event for event in events}
            self._send(round_, events)

    def _send(self, round_: Round, events: Sequence[Mapping[str, Any]]) -> None:
        """Until every event is acknowledged."""
        body = orjson.dumps(events)
        while True:
            status, answer = self._call("POST", "/events", body)
            verdicts = orjson.loads(answer)["verdicts"] if status in (200, 422) else []
            taken = {verdict["event_id"] for verdict in verdicts if verdict["verdict"] != "rejected"}
            with self._lock:
                round_.acknowledged |= taken
                self.findings.acknowledged |= taken
            if len(taken) == len(events):
                return
            self.findings.retried += 1
            time.sleep(0.25)

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    # Checks

    def _check_histories_now(self, round_: Round, acknowledged: set[str]) -> None:
        """Redis outlives the service: an acknowledged event is in the history of its user, or of its session."""
        with redis.Redis.from_url(socket_url(self._data_dir / "redis")) as client:
            found = {key: set(items) for key, items in _histories(client, round_.number).items()}
        for event_id in acknowledged:
            event = round_.sent[event_id]
            key = f"u:{event['user_id']}" if "user_id" in event else f"s:{event['session_id']}"
            if hash_id(event["item_id"]) not in found.get(key, ()):
                self.findings.lost_at_kill.add(event_id)

    def _check(self) -> None:
        """Every event is once in the database, once in its session's history, and once in its user's."""
        self._wait_for_healing()
        with opened(database_url(self._data_dir, self._url)) as engine, reading(engine) as connection:
            stored = Counter(connection.execute(select(EVENTS.c.event_id)).scalars())
            assert sum(stored.values()) == connection.execute(select(func.count()).select_from(EVENTS)).scalar()
        self._note("database", stored)
        counted: Counter[str] = Counter()
        with redis.Redis.from_url(socket_url(self._data_dir / "redis")) as client:
            for round_ in self.rounds:
                histories = _histories(client, round_.number)
                logged_in = {e["user_id"] for e in round_.sent.values() if "user_id" in e and "session_id" in e}
                for event_id, event in round_.sent.items():
                    item = hash_id(event["item_id"])
                    user = event.get("user_id") or event["session_id"].replace("s", "u", 1)
                    places = [f"u:{user}"] if "user_id" in event or user in logged_in else []
                    places += [f"s:{event['session_id']}"] if "session_id" in event else []
                    times = [histories.get(key, Counter())[item] for key in places]
                    # Both too few and too many show: the worst place counts.
                    counted[event_id] = max(times) if min(times) > 0 else 0
        self._note("histories", counted)

    def _wait_for_healing(self) -> None:
        """Until the histories are complete up to a moment after now, by the service's own word."""
        after = time.time() + 3 * HEAL_SECONDS
        deadline = time.monotonic() + READY_SECONDS
        with redis.Redis.from_url(socket_url(self._data_dir / "redis")) as client:
            while float(client.get("default:complete") or 0.0) < after:  # type: ignore[arg-type]
                if time.monotonic() > deadline:
                    raise RuntimeError("the histories do not become complete")
                time.sleep(0.2)

    def _check_tables(self) -> None:
        """Every event is one interaction, the anonymous ones of the user who logged in."""
        source = self._data_dir / "orders.csv"
        source.write_text("item,at,user\nold item,2024-01-01,old user\n")
        mapping = self._data_dir / "shop.toml"
        mapping.write_text(
            '[shop]\nname = "kill"\n[[events]]\nsource = "orders"\nfiles = "orders.csv"\nevent_type = "purchase"\n'
            '[events.columns]\nitem_id = "item"\ntimestamp = "at"\nuser_id = "user"\n'
        )
        ingest(mapping, self._data_dir, QUIET)
        for _ in range(2):  # the second run finds nothing new
            ingest_log(database_url(self._data_dir, self._url), self._data_dir, QUIET)
        build_tables(self._data_dir, QUIET)
        path = self._data_dir / "tables" / "interactions.parquet"
        with connect() as connection:
            rows = connection.execute(
                f"SELECT event_id, COUNT(*), MIN(COALESCE(user_id, '')) FROM '{path}' WHERE source = 'event_log' GROUP BY event_id"
            ).fetchall()
        self._note("tables", Counter({event_id: count for event_id, count, _ in rows}))
        users = {event_id: user for event_id, _, user in rows}
        for round_ in self.rounds:
            logged_in = {e["user_id"] for e in round_.sent.values() if "user_id" in e and "session_id" in e}
            for event_id, event in round_.sent.items():
                user = event.get("user_id") or event["session_id"].replace("s", "u", 1)
                if user in logged_in and users.get(event_id) != user:
                    self.findings.lost["tables"] += 1

    def _note(self, place: str, counted: Counter[str]) -> None:
        self.findings.lost[place] = sum(counted[event_id] == 0 for event_id in self.findings.acknowledged)
        self.findings.doubled[place] = sum(count > 1 for count in counted.values())


def _histories(client: redis.Redis, round_: int) -> dict[str, Counter[int]]:
    """How often each item is in each history of a round's users and sessions."""
    keys = [f"{kind}:{kind}{round_}-{user}" for user in range(USERS) for kind in ("u", "s")]
    values: list[bytes | None] = client.mget([f"default:{key}" for key in keys])  # type: ignore[assignment]
    return {
        key: Counter(np.frombuffer(value or b"", RECORD)["item"].tolist())
        for key, value in zip(keys, values, strict=True)
    }
