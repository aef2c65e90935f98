"""The recommender as a shopper's browser meets it: asked for items, told of events. In this process, or over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

import httpx
import orjson

Request = dict[str, Any]
Answer = dict[str, Any]
Event = dict[str, Any]
Message = MutableMapping[str, Any]
Asgi = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

VERDICTS: Final = ("accepted", "duplicate", "rejected")
OK: Final = 200
UNFIT: Final = 422
"""Of `/events`: every one was rejected."""


class ShopError(Exception):
    """The recommender did not answer as it should; the message has its words."""


class Shop(Protocol):
    """What answers and learns. `at` is the simulated Unix time."""

    def recommend(self, request: Request, at: float) -> Answer:
        """The answer to a request of `/recommend`.

        Raises:
            ShopError: there is none.
        """
        ...

    def page(self, request: Request, at: float) -> dict[str, Answer]:
        """By name the widgets of a request of `/page`.

        Raises:
            ShopError: there are none.
        """
        ...

    def take(self, events: Sequence[Event], at: float) -> Counter[str]:
        """How many of at most 1,000 events got which verdict.

        Raises:
            ShopError: they were not judged.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallableShop:
    """A function that answers, and another that takes events."""

    answer: Callable[[Request], Answer]
    learn: Callable[[Sequence[Event]], None] = lambda _: None

    def recommend(self, request: Request, at: float) -> Answer:  # noqa: ARG002
        """See `Shop`."""
        return self.answer(request)

    def page(self, request: Request, at: float) -> dict[str, Answer]:  # noqa: ARG002
        """See `Shop`; each widget is asked for by itself, without what those above it show."""
        return composed(self.answer, request)

    def take(self, events: Sequence[Event], at: float) -> Counter[str]:  # noqa: ARG002
        """See `Shop`; all are accepted."""
        self.learn(events)
        return Counter(accepted=len(events))


@dataclass(frozen=True, slots=True)
class HttpShop:
    """The service at the client's base address. Its clock is its own: simulated time is what the events say."""

    client: httpx.Client

    def recommend(self, request: Request, at: float) -> Answer:  # noqa: ARG002
        """See `Shop`."""
        return _read(*self._post("/recommend", request))

    def page(self, request: Request, at: float) -> dict[str, Answer]:  # noqa: ARG002
        """See `Shop`."""
        return _widgets(*self._post("/page", request))

    def take(self, events: Sequence[Event], at: float) -> Counter[str]:  # noqa: ARG002
        """See `Shop`."""
        return _verdicts(*self._post("/events", list(events)))

    def _post(self, path: str, content: Any) -> tuple[int, bytes]:
        try:
            response = self.client.post(
                path, content=orjson.dumps(content), headers={"content-type": "application/json"}
            )
        except httpx.HTTPError as error:
            raise ShopError(f"{path}: {error}") from error
        return response.status_code, response.content


@dataclass(slots=True)
class SimulatedClock:
    """Unix time as a service in this process is given it."""

    now: float

    def __call__(self) -> float:
        return self.now


class AsgiShop:
    """The service in this process: its application is called without a socket, under the clock that it was made with."""

    def __init__(self, app: Asgi, clock: SimulatedClock) -> None:
        self._app = app
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._lifespan: asyncio.Task[None] | None = None
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()

    def __enter__(self) -> Self:
        self._loop.run_until_complete(self._tell("startup"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.run_until_complete(self._tell("shutdown"))
        finally:
            self._loop.close()

    def recommend(self, request: Request, at: float) -> Answer:
        """See `Shop`."""
        return _read(*self._post("/recommend", request, at))

    def page(self, request: Request, at: float) -> dict[str, Answer]:
        """See `Shop`."""
        return _widgets(*self._post("/page", request, at))

    def take(self, events: Sequence[Event], at: float) -> Counter[str]:
        """See `Shop`."""
        return _verdicts(*self._post("/events", list(events), at))

    async def _tell(self, what: str) -> None:
        if self._lifespan is None:
            scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
            self._lifespan = asyncio.ensure_future(self._app(scope, self._told.get, self._said.put))
        await self._told.put({"type": f"lifespan.{what}"})
        said = await self._said.get()
        if said["type"] != f"lifespan.{what}.complete":
            raise ShopError(f"{what}: {said.get('message', said)}")

    def _post(self, path: str, content: Any, at: float) -> tuple[int, bytes]:
        self._clock.now = max(self._clock.now, at)
        return self._loop.run_until_complete(self._call(path, orjson.dumps(content)))

    async def _call(self, path: str, body: bytes) -> tuple[int, bytes]:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        status, parts = 0, list[bytes]()

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        await self._app(scope, receive, send)
        return status, b"".join(parts)


def _read(status: int, body: bytes) -> Answer:
    if status != OK:
        raise ShopError(f"status {status}: {body.decode(errors='replace')}")
    answer: Answer = orjson.loads(body)
    return answer


def _widgets(status: int, body: bytes) -> dict[str, Answer]:
    widgets: dict[str, Answer] = _read(status, body)["widgets"]
    return widgets


def composed(answer: Callable[[Request], Answer], request: Request) -> dict[str, Answer]:
    """A page of what a function answers, by widget: each without the items of those above it."""
    told = {name: value for name, value in request.items() if name != "widgets"}
    page: dict[str, Answer] = {}
    for widget in request["widgets"]:
        asked = {**told, **{name: value for name, value in widget.items() if name != "name"}}
        if shown := [item["item_id"] for above in page.values() for item in above["items"]]:
            asked["filters"] = {**asked.get("filters", {}), "exclude_item_ids": shown}
        page[widget["name"]] = answer(asked)
    return page


def _verdicts(status: int, body: bytes) -> Counter[str]:
    judged = _read(OK if status == UNFIT else status, body)
    return Counter({verdict: judged.get(verdict, 0) for verdict in VERDICTS})
