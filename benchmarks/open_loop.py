"""Requests at a rate that does not wait for the answers: what a crowd does, and a closed loop of connections does not.

`python -m benchmarks.open_loop URL --rate 500 --seconds 20`. Requests are due at random moments (Poisson). Latency counts from when a
request was due, so one that waits for a free connection of the sender counts as late (no coordinated omission: Tene, "How not to measure
latency"). Connections are opened as they are needed, up to `--connections`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

TICK_SECONDS: Final = 0.002


@dataclass(slots=True)
class Heard:
    """What came back."""

    started: float = field(default_factory=time.perf_counter)
    seconds: list[float] = field(default_factory=list)
    """Of answers with status 200, from when each was due."""
    moments: list[float] = field(default_factory=list)
    """When each was due, after the start."""
    statuses: Counter[int] = field(default_factory=Counter)
    """0 where the connection broke."""
    rungs: Counter[str] = field(default_factory=Counter)
    invalid: int = 0
    """Answers that are no answer: not JSON, or items are missing, repeated or without a title."""
    unsent: int = 0
    """Requests for which no connection came free before the end."""

    def hear(self, status: int, body: bytes, due: float) -> None:
        """One answer to a request that was due then."""
        self.statuses[status] += 1
        if status != 200:
            return
        self.seconds.append(time.perf_counter() - due)
        self.moments.append(due - self.started)
        try:
            answer = orjson.loads(body)
            ids = [item["item_id"] for item in answer["items"] if item["title"] and item["reason"]]
            self.rungs[answer["rung"]] += 1
            self.invalid += len(set(ids)) != len(answer["items"])
        except (orjson.JSONDecodeError, KeyError):
            self.invalid += 1

    def summary(self, seconds: float) -> dict[str, object]:
        """Figures, latencies in milliseconds."""
        taken = np.array(self.seconds or [np.nan]) * 1_000
        p50, p99 = (round(float(np.percentile(taken, q)), 1) for q in (50, 99))
        return {
            "answers_per_second": round(len(self.seconds) / seconds, 1),
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": round(float(taken.max()), 1),
            "by_second": self._by_second(taken),
            "statuses": {str(status): n for status, n in self.statuses.items()},
            "rungs": dict(self.rungs),
            "invalid": self.invalid,
            "unsent": self.unsent,
        }

    def _by_second(self, taken: NDArray[np.float64]) -> list[tuple[int, float]]:
        """Answers to requests due in each second, and the 99th percentile of their milliseconds."""
        second = np.floor(self.moments).astype(np.int64)
        parts = [taken[: len(second)][second == n] for n in range(int(second.max(initial=-1)) + 1)]
        return [(len(part), round(float(np.percentile(part, 99)), 1) if len(part) else 0.0) for part in parts]


class Connection(asyncio.Protocol):
    """One request at a time on one connection."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._transport: asyncio.Transport | None = None
        self._due: float | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Free."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._sender.idle.append(self)

    def ask(self, request: bytes, due: float) -> None:
        """Send."""
        assert self._transport is not None
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Answers have a length."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        headers = bytes(self._buffer[:head]).lower()
        length = int(headers.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._buffer) < head + 4 + length or self._due is None:
            return
        body = bytes(self._buffer[head + 4 : head + 4 + length])
        self._buffer.clear()
        due, self._due = self._due, None
        self._sender.heard.hear(int(headers[9:12]), body, due)
        if b"connection: close" not in headers:
            self._sender.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Whoever waits for an answer has none."""
        self._sender.n_open -= 1
        if self._due is not None:
            self._sender.heard.hear(0, b"", 0.0)
            self._due = None
        if self in self._sender.idle:
            self._sender.idle.remove(self)


class Sender:
    """Sends what is due."""

    def __init__(self, host: str, port: int, requests: Sequence[bytes], connections: int) -> None:
        self._host, self._port, self._requests, self._most = host, port, requests, connections
        self.idle: deque[Connection] = deque()
        self.heard = Heard()
        self.n_open = 0
        self._next = 0
        self._opening: set[asyncio.Task[object]] = set()

    async def run(self, rate: float, seconds: float, rng: np.random.Generator) -> Heard:
        """Send at a rate for some seconds, then wait a second for the last answers."""
        moments = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.2) + 10))
        due = deque((moments[moments < seconds] + time.perf_counter() + 0.05).tolist())
        waiting: deque[float] = deque()
        end = time.perf_counter() + seconds + 1.0
        while time.perf_counter() < end:
            now = time.perf_counter()
            while due and due[0] <= now:
                waiting.append(due.popleft())
            while waiting and self.idle:
                self.idle.popleft().ask(self._requests[self._next % len(self._requests)], waiting.popleft())
                self._next += 1
            for _ in range(min(len(waiting), self._most - self.n_open)):
                self._open()
            await asyncio.sleep(TICK_SECONDS)
        self.heard.unsent += len(waiting)
        return self.heard

    def _open(self) -> None:
        self.n_open += 1
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(loop.create_connection(lambda: Connection(self), self._host, self._port))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if task.exception() is not None:
            self.n_open -= 1
            self.heard.hear(0, b"", 0.0)


def get(host: str, path: str) -> bytes:
    """A request as it goes out."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def main() -> None:
    """Send, and print what came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--paths", type=argparse.FileType(), help="one path a line; URL's own by default")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=256)
    arguments = parser.parse_args()
    url = urlsplit(arguments.url)
    own = f"{url.path}?{url.query}" if url.query else url.path
    paths = arguments.paths.read().split() if arguments.paths else [own]
    requests = [get(url.netloc, path) for path in paths]
    sender = Sender(url.hostname or "127.0.0.1", url.port or 80, requests, arguments.connections)
    heard = uvloop.run(sender.run(arguments.rate, arguments.seconds, np.random.default_rng(0)))
    print(orjson.dumps(heard.summary(arguments.seconds), option=orjson.OPT_INDENT_2).decode())


if __name__ == "__main__":
    main()
