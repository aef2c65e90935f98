"""Workers that come and go while requests go on: what is told to stop loses no request, what is killed is replaced."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from recsys.store.schema import EVENTS
from service.keys import Role, create_key
from tests.shop import logged, publish_tiny_shop, running_service

CLIENTS = 4


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s")
    publish_tiny_shop(folder)
    return folder


def eventually(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def parent_of(url: str) -> int:
    """The process that was started."""
    words = f"--port\0{urlsplit(url).port}\0".encode()
    (pid,) = (int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if words in read(path))
    return pid


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has just ended
        return b""


def workers_of(url: str) -> set[int]:
    """Its children that serve."""
    parent, found = parent_of(url), set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = read(path).rpartition(b")")[2].split()
        if fields[1:2] == [b"%d" % parent] and b"spawn_main" in read(path.parent / "cmdline"):
            found.add(int(path.parent.name))
    return found


def mapped(pid: int) -> set[bytes]:
    """The bundle's files that a process reads as memory."""
    return {line.split()[-1] for line in read(Path(f"/proc/{pid}/maps")).splitlines() if line.endswith(b".npy")}


class Clients:
    """Keep asking and telling, each on a connection that stays open until an answer says that it closes."""

    def __init__(self, url: str, *, leave_when_closed: bool = False) -> None:
        self._address = urlsplit(url).netloc
        self._leave = leave_when_closed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.statuses: Counter[int | str] = Counter()
        self.acknowledged: list[str] = []
        self.closed = 0
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def _run(self, client: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        number = 0
        while not self._stop.is_set():
            number += 1
            event = {
                "event_id": f"{self._address}-{client}-{number}",
                "type": "view",
                "user_id": f"u{client}",
                "item_id": "item-03",
            }
            body = json.dumps(event) if number % 3 == 0 else None
            method, path = ("POST", "/events") if body else ("GET", f"/recommend?user_id=household-0{client}&k=5")
            try:
                connection.request(method, path, body)
                answer = connection.getresponse()
                content, status = answer.read(), answer.status
            except OSError as error:
                content, status = b"", type(error).__name__
                connection.close()
            with self._lock:
                self.statuses[status] += 1
                if body and status == 200 and json.loads(content)["accepted"]:
                    self.acknowledged.append(event["event_id"])
                closes = status == 200 and answer.getheader("connection") == "close"
                self.closed += closes
            if closes and self._leave:
                break
        connection.close()

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def two_workers(data_dir: Path, **environment: str) -> Iterator[str]:
    with running_service(data_dir, workers=2, environment=environment) as url:
        eventually(lambda: len(workers_of(url)) == 2)
        yield url


def test_a_killed_worker_is_replaced_and_the_others_go_on(data_dir: Path) -> None:
    with two_workers(data_dir) as url:
        before = workers_of(url)
        # One bundle, which they share; who is ready may still be mapping the last of it.
        eventually(lambda: all(map(mapped, before)) and len({frozenset(mapped(pid)) for pid in before}) == 1)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        for _ in range(30):  # each on a connection of its own
            assert httpx.get(f"{url}/recommend", params={"k": 3}, timeout=60).status_code == 200
        eventually(lambda: len(workers_of(url) - {victim}) == 2)
        assert workers_of(url) & before == before - {victim}
        assert "recsys_load_level" in httpx.get(f"{url}/metrics", timeout=60).text


def test_workers_whose_parent_is_killed_leave_and_the_next_one_serves(data_dir: Path) -> None:
    with two_workers(data_dir) as url:
        before = workers_of(url)
        os.kill(parent_of(url), signal.SIGKILL)
        eventually(lambda: not any(b"spawn_main" in read(Path(f"/proc/{pid}/cmdline")) for pid in before))
    with running_service(data_dir) as url:  # with the Redis that was left behind
        assert httpx.get(f"{url}/recommend", params={"k": 3}, timeout=60).json()["degraded"] is False


def test_a_worker_that_starts_when_the_keys_are_gone_lets_nobody_in(data_dir: Path) -> None:
    keys = data_dir / "keys.json"
    create_key(keys, "boss", Role.ADMIN, datetime.now(UTC))
    with two_workers(data_dir) as url:
        before = workers_of(url)
        eventually(lambda: all(map(mapped, before)))
        time.sleep(5.0)  # it reads the keys after that: the one that is to stay must have them
        keys.unlink()
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: b"KeysError" in (data_dir / "service.log").read_bytes())
        assert {httpx.get(f"{url}/metrics", timeout=60).status_code for _ in range(10)} == {401}


def test_workers_are_replaced_at_a_hang_up_and_no_request_fails(data_dir: Path) -> None:
    with two_workers(data_dir) as url:
        before = workers_of(url)
        with Clients(url) as clients:
            os.kill(parent_of(url), signal.SIGHUP)
            eventually(lambda: len(workers_of(url)) == 2 and not workers_of(url) & before)
            time.sleep(0.5)
        assert set(clients.statuses) == {200}
        assert clients.closed  # so that nobody asks again where nobody will be
    assert set(clients.acknowledged) <= {row["event_id"] for row in logged(data_dir, EVENTS)}


def test_workers_leave_by_themselves_after_their_share_and_no_request_fails(data_dir: Path) -> None:
    with two_workers(data_dir, RECSYS_WORKER_REQUESTS="40", RECSYS_DRAIN_SECONDS="3") as url:
        before = workers_of(url)
        with Clients(url) as clients:
            eventually(lambda: len(workers_of(url)) == 2 and not workers_of(url) & before)
        assert set(clients.statuses) == {200}
    assert set(clients.acknowledged) <= {row["event_id"] for row in logged(data_dir, EVENTS)}


@pytest.mark.parametrize("workers", [1, 2])
def test_whoever_is_told_to_stop_says_so_and_answers_what_still_comes(data_dir: Path, workers: int) -> None:
    with running_service(data_dir, workers=workers, environment={"RECSYS_DRAIN_SECONDS": "3"}) as url:
        assert httpx.get(f"{url}/health/ready", timeout=60).json()["status"] == "ready"
        with Clients(url, leave_when_closed=True) as clients:
            time.sleep(0.5)
            os.kill(parent_of(url), signal.SIGTERM)
            eventually(lambda: httpx.get(f"{url}/health/ready", timeout=60).status_code == 503)
            eventually(lambda: clients.closed == CLIENTS)
        assert set(clients.statuses) == {200}
        eventually(lambda: not (data_dir / "redis" / "redis.sock").exists())
    assert set(clients.acknowledged) <= {row["event_id"] for row in logged(data_dir, EVENTS)}
    assert "Traceback" not in (data_dir / "service.log").read_text()


def test_who_has_just_come_in_is_answered(data_dir: Path) -> None:
    with running_service(data_dir, environment={"RECSYS_DRAIN_SECONDS": "0"}) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.connect()
        time.sleep(1.0)  # it is let in
        os.kill(parent_of(url), signal.SIGTERM)
        time.sleep(0.3)  # the server closes what is open
        connection.request("GET", "/recommend?k=3")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        eventually(lambda: not (data_dir / "redis" / "redis.sock").exists())


def test_one_worker_alone_cannot_be_replaced(data_dir: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="needs several workers"),
        running_service(data_dir, environment={"RECSYS_WORKER_REQUESTS": "40"}),
    ):
        pass
