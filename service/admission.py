"""What stands before the application: who may come in, with how much time, and that the connection closes when the service leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.load import ALLOWANCE, IMPATIENCE, Allowance, Load
from service.metrics import Metrics
from service.presence import Presence
from service.protocol import READ_AT

LIMITED: Final = frozenset({"/recommend", "/page"})
OVERLOAD: Final = "overload"
"""Why a request was turned away, for the metrics."""
HEADER: Final = b"x-deadline-ms"
MAX_DEADLINE_MS: Final = 60_000
_BODILESS: Final = frozenset({"GET", "HEAD"})
_CLOSE: Final = (b"connection", b"close")
_RETRY: Final = (b"retry-after", b"1")


class Admission:
    """Requests for answers come in as the load allows. Pure ASGI: it stands in every answer's way."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        load: Load,
        metrics: Metrics,
        clock: Callable[[], float],
        deadline_ms: int,
        max_body_bytes: int,
        presence: Presence,
    ) -> None:
        """`clock` is steady; `deadline_ms` holds for requests that name none; a longer body than `max_body_bytes` is left to `app`."""
        self._app = app
        self._load = load
        self._metrics = metrics
        self._clock = clock
        self._seconds = deadline_ms / 1_000
        self._max_body_bytes = max_body_bytes
        self._presence = presence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        self._presence.count()
        if self._presence.leaving:
            send = _closing(send)
        if scope["path"] not in LIMITED:
            return await self._app(scope, receive, send)
        began, seconds = self._clock(), self._named(scope["headers"])
        since = scope.get(READ_AT, began)
        if seconds is None:
            return await _say(
                send, 422, f"{HEADER.decode()}: a whole number of milliseconds from 1 to {MAX_DEADLINE_MS:,}"
            )
        if scope["method"] not in _BODILESS:
            receive = await self._having_body(receive)
            since += self._clock() - began  # the client's time, not ours
        rung = self._load.enter(self._clock() - since)
        if rung is None:
            self._metrics.turned_away(OVERLOAD)
            return await _say(send, 429, "too many requests at once: try again", _RETRY)
        ALLOWANCE.set(Allowance(self._clock, rung, since, seconds, self._load.queue_seconds * IMPATIENCE))
        try:
            return await self._app(scope, receive, send)
        finally:
            self._load.leave()

    async def _having_body(self, receive: Receive) -> Receive:
        """The same, once the body is here: who sends it slowly, or never, holds no place that others need."""
        messages, size, is_all = deque[Message](), 0, False
        while not is_all and size <= self._max_body_bytes:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            is_all = not message.get("more_body", False)

        async def replay() -> Message:
            return messages.popleft() if messages else await receive()

        return replay

    def _named(self, headers: Iterable[tuple[bytes, bytes]]) -> float | None:
        """Seconds that the request gives itself, or those that are usual; None where it names what cannot be."""
        for name, value in headers:
            if name == HEADER:
                given = int(value) if value.isdigit() and len(value) < 9 else 0
                return given / 1_000 if 1 <= given <= MAX_DEADLINE_MS else None
        return self._seconds


def _closing(send: Send) -> Send:
    """The same, with the word that the connection closes after the answer: the next request then goes to who stays."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
        await send(message)

    return closing


async def _say(send: Send, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
    body = orjson.dumps({"detail": detail})
    length = (b"content-length", b"%d" % len(body))
    kind = (b"content-type", b"application/json")
    await send({"type": "http.response.start", "status": status, "headers": [kind, length, *headers]})
    await send({"type": "http.response.body", "body": body})
