"""Requests at a rate that does not wait for the answers: what a crowd does, and a closed loop of connections does not.

`python -m benchmarks.open_loop URL --rate 500 --seconds 20`. Requests are due at random moments (Poisson). Latency counts from when a
request was due, so one that waits for a free connection of the sender counts as late (no coordinated omission: Tene, "How not to measure
latency"). Connections are opened as they are needed, up to `--connections`. A request whose connection breaks is sent once more, as
browsers and HTTP libraries do; all that is sent here may be sent twice. Answers are kept and looked at afterwards: what is looked at
meanwhile takes time from what is due.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Final, Generic, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
import orjson
import uvloop

TICK_SECONDS: Final = 0.002
GRACE_SECONDS: Final = 1.0
"""For the last answers."""
BROKEN: Final = 0
"""As a status: the connection broke, twice, or could not be opened."""
UNANSWERED: Final = -1
"""As a status: no answer came before the end."""


class Message(Protocol):
    """What can be sent."""

    @property
    def message(self) -> bytes:
        """A whole HTTP/1.1 request."""
        ...


M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Reply(Generic[M]):
    """A request and what became of it."""

    asked: M
    due: float
    """Seconds after the start."""
    status: int = UNANSWERED
    seconds: float = float("nan")
    """From when it was due to the answer."""
    body: bytes = b""
    again: bool = False
    """Whether it was sent a second time."""
    lag: float = 0.0
    """Seconds by which the sender itself came late to it: what it has measured is worth as much as this is small."""


class Connection(asyncio.Protocol, Generic[M]):
    """One request at a time on one connection."""

    def __init__(self, sender: Sender[M]) -> None:
        self._sender = sender
        self._transport: asyncio.Transport | None = None
        self._reply: Reply[M] | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Free."""
        self._transport = cast("asyncio.Transport", transport)
        self._sender.connections.add(self)
        self._sender.idle.append(self)

    def ask(self, reply: Reply[M]) -> None:
        """Send."""
        assert self._transport is not None
        self._reply = reply
        self._transport.write(reply.asked.message)

    def data_received(self, data: bytes) -> None:
        """Answers have a length."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        headers = bytes(self._buffer[:head]).lower()
        length = int(headers.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._buffer) < head + 4 + length or self._reply is None:
            return
        body = bytes(self._buffer[head + 4 : head + 4 + length])
        self._buffer.clear()
        reply, self._reply = self._reply, None
        self._sender.hear(reply, int(headers[9:12]), body)
        if b"connection: close" not in headers:
            self._sender.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Whoever waits for an answer asks again."""
        self._sender.n_open -= 1
        self._sender.connections.discard(self)
        if self in self._sender.idle:
            self._sender.idle.remove(self)
        if self._reply is not None:
            self._sender.lose(self._reply)
            self._reply = None

    def close(self) -> None:
        """Whatever waits for an answer has none."""
        self._reply = None
        if self._transport is not None:
            self._transport.abort()


class Sender(Generic[M]):
    """Sends what is due."""

    def __init__(self, host: str, port: int, messages: Iterator[M], connections: int = 256) -> None:
        self._host, self._port, self._messages, self._most = host, port, messages, connections
        self._waiting: deque[Reply[M]] = deque()
        self._opening: set[asyncio.Task[object]] = set()
        self._started = 0.0
        self.idle: deque[Connection[M]] = deque()
        self.connections: set[Connection[M]] = set()
        self.n_open = 0

    async def run(
        self,
        rate: float,
        seconds: float,
        rng: np.random.Generator,
        *,
        grace: float = GRACE_SECONDS,
        stop: Event | None = None,
    ) -> list[Reply[M]]:
        """Send at a rate for some seconds, or until told to stop, then wait for the last answers; a reply for every request that was due, in
        order.

        Its own garbage is collected afterwards: whoever waits for that is none of the service's.
        """
        gc.disable()
        try:
            return await self._send(rate, seconds, rng, grace, stop)
        finally:
            gc.enable()

    async def _send(
        self, rate: float, seconds: float, rng: np.random.Generator, grace: float, stop: Event | None
    ) -> list[Reply[M]]:
        moments = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.2) + 20))
        due = deque(moments[moments < seconds].tolist())
        replies: list[Reply[M]] = []
        self._started = time.perf_counter()
        end = seconds + grace
        while (now := time.perf_counter() - self._started) < end:
            if stop is not None and stop.is_set() and due:
                due.clear()
                end = now + grace
            while due and due[0] <= now:
                reply = Reply(next(self._messages), due[0], lag=now - due.popleft())
                replies.append(reply)
                self._waiting.append(reply)
            while self._waiting and self.idle:
                self.idle.popleft().ask(self._waiting.popleft())
            for _ in range(min(len(self._waiting) - len(self._opening), self._most - self.n_open)):
                self._open()
            if not due and not self._waiting and len(self.idle) == self.n_open:
                break
            await asyncio.sleep(TICK_SECONDS)
        self._waiting.clear()
        for connection in tuple(self.connections):
            connection.close()
        return replies

    def hear(self, reply: Reply[M], status: int, body: bytes) -> None:
        """An answer has come."""
        reply.status, reply.body = status, body
        reply.seconds = time.perf_counter() - self._started - reply.due

    def lose(self, reply: Reply[M]) -> None:
        """A connection broke before the answer: once more, before all others."""
        if reply.again:
            self.hear(reply, BROKEN, b"")
        else:
            reply.again = True
            self._waiting.appendleft(reply)

    def _open(self) -> None:
        self.n_open += 1
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(loop.create_connection(lambda: Connection(self), self._host, self._port))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if task.cancelled() or task.exception() is not None:
            self.n_open -= 1
            if self._waiting:
                self.lose(self._waiting.popleft())


@dataclass(frozen=True, slots=True)
class Get:
    """A GET request."""

    host: str
    path: str

    @property
    def message(self) -> bytes:
        """See `Message`."""
        return f"GET {self.path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()


def percentile(replies: Sequence[Reply[M]], q: float) -> float:
    """Of the milliseconds of answers with status 200; NaN where there are none."""
    taken = [reply.seconds for reply in replies if reply.status == 200]
    return float(np.percentile(taken, q)) * 1_000 if taken else float("nan")


def summary(replies: Sequence[Reply[M]], seconds: float) -> dict[str, object]:
    """Figures of what was answered, for a terminal."""
    answered = [reply for reply in replies if reply.status == 200]
    rungs = Counter(orjson.loads(reply.body).get("rung") for reply in answered)
    by_second = [[reply for reply in answered if int(reply.due) == second] for second in range(int(seconds) + 1)]
    return {
        "answers_per_second": round(len(answered) / seconds, 1),
        "p50_ms": round(percentile(replies, 50), 1),
        "p99_ms": round(percentile(replies, 99), 1),
        "max_ms": round(percentile(replies, 100), 1),
        "by_second": [(len(part), round(percentile(part, 99), 1)) for part in by_second if part],
        "statuses": {str(status): n for status, n in Counter(reply.status for reply in replies).items()},
        "rungs": {str(rung): n for rung, n in rungs.items()},
        "sent_again": sum(reply.again for reply in replies),
    }


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
    messages = itertools.cycle([Get(url.netloc, path) for path in paths])
    sender = Sender(url.hostname or "127.0.0.1", url.port or 80, messages, arguments.connections)
    replies = uvloop.run(sender.run(arguments.rate, arguments.seconds, np.random.default_rng(0)))
    print(orjson.dumps(summary(replies, arguments.seconds), option=orjson.OPT_INDENT_2).decode())


if __name__ == "__main__":
    main()
