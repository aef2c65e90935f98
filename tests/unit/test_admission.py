"""`service.admission` around an application of the test's own: who comes in, with how much time, and what the others are told."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from service.admission import Admission
from service.ladder import Rung
from service.load import ALLOWANCE, AT_EASE, Allowance, Load
from service.metrics import Metrics
from service.presence import Presence, State
from service.protocol import READ_AT


class Guarded:
    """An application behind an admission, and what it saw."""

    def __init__(self, *, most_inside: int = 1, fails: bool = False, most_requests: int | None = None) -> None:
        self.saw: list[Allowance] = []
        self.read_at = 50.0
        self._fails = fails
        self.registry = CollectorRegistry()
        self.now, self.worked = 50.0, 0.0
        self.body = [b""]
        """What the client sends, a second for each part."""
        self.read: list[bytes] = []
        """What the application has read, where it reads."""
        self.load = Load(lambda: self.now, queue_seconds=0.02, most_inside=most_inside, worked=lambda: self.worked)
        self.presence = Presence(drain_seconds=0.0, most_requests=most_requests)
        self._admission = Admission(
            self._app,
            load=self.load,
            metrics=Metrics("s", self.registry),
            clock=lambda: self.now,
            deadline_ms=100,
            max_body_bytes=10,
            presence=self.presence,
        )

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.saw.append(ALLOWANCE.get())
        while scope["method"] == "POST":
            message = await receive()
            self.read.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        if self._fails:
            raise ZeroDivisionError
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"{}"})

    def ask(self, path: str = "/recommend", method: str = "GET", **headers: str) -> tuple[int, dict[bytes, bytes], Any]:
        """Status, headers and content of an answer."""
        sent: list[Message] = []
        parts = list(self.body)

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            if not parts:
                return {"type": "http.disconnect"}
            self.now += 1.0
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"accept", b"*/*"), *named],
            READ_AT: self.read_at,
        }
        asyncio.run(self._run(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]), orjson.loads(sent[1]["body"])

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._admission(scope, receive, send)


def test_a_request_comes_in_with_what_the_load_allows_and_the_time_it_has() -> None:
    guarded = Guarded()
    guarded.load.level = 1.0
    assert guarded.ask()[0] == 200
    assert guarded.ask("/page", x_deadline_ms="30")[0] == 200
    first, second = guarded.saw
    assert (first.rung, first.since, first.seconds, first.patience) == (Rung.REMEMBERED, 50.0, 0.1, 0.04)
    assert second.seconds == 0.03
    assert guarded.load.inside == 0


@pytest.mark.parametrize("given", ["", "0", "60001", "12.5", "-3", "soon", "9" * 5_000])
def test_a_deadline_that_cannot_be_is_said(given: str) -> None:
    guarded = Guarded()
    status, _, content = guarded.ask(x_deadline_ms=given)
    assert (status, guarded.saw) == (422, [])
    assert "x-deadline-ms" in content["detail"]


def test_who_finds_no_room_is_told_when_to_come_again_and_costs_nothing() -> None:
    guarded = Guarded(most_inside=1)
    guarded.load.enter()
    status, headers, content = guarded.ask()
    assert (status, headers[b"retry-after"], guarded.saw) == (429, b"1", [])
    assert "try again" in content["detail"]
    assert (
        guarded.registry.get_sample_value("recsys_requests_refused_total", {"shop": "s", "reason": "overload"}) == 1.0
    )
    guarded.load.leave()
    assert guarded.ask()[0] == 200


def test_who_has_queued_since_it_was_read_has_less_time_and_is_refused_when_it_is_too_late() -> None:
    guarded = Guarded(most_inside=9)
    for _ in range(150):  # 750 a second
        assert guarded.ask()[0] == 200
    guarded.now, guarded.worked = 50.2, 0.2
    guarded.load.level = 1.0
    guarded.load.note(0.03)  # a queue, of the loop's own making
    guarded.read_at = 50.188
    assert guarded.ask()[0] == 200
    assert (guarded.saw[-1].since, guarded.saw[-1].rung) == (50.188, Rung.POPULAR)
    guarded.read_at = 50.17
    status, headers, _ = guarded.ask()
    assert (status, headers[b"retry-after"], len(guarded.saw)) == (429, b"1", 151)


def test_a_body_that_comes_slowly_holds_no_place_and_takes_none_of_the_time() -> None:
    guarded = Guarded(most_inside=1)
    guarded.body = [b"one", b"two", b"three"]
    inside: list[int] = []
    enter = guarded.load.enter
    guarded.load.enter = lambda waited: (inside.append(guarded.load.inside), enter(waited))[1]  # type: ignore[method-assign]
    assert guarded.ask(method="POST")[0] == 200
    assert guarded.read == [b"one", b"two", b"three"]
    assert (guarded.saw[-1].since, guarded.now) == (53.0, 53.0)
    assert inside == [0]


@pytest.mark.parametrize("parts", [[b"0123456789", b"a", b"never read"], [b""]])
def test_of_a_body_no_more_is_kept_than_it_may_be_long(parts: list[bytes]) -> None:
    guarded = Guarded(most_inside=1)
    guarded.body = parts
    came: list[float] = []
    enter = guarded.load.enter
    guarded.load.enter = lambda waited: (came.append(guarded.now), enter(waited))[1]  # type: ignore[method-assign]
    assert guarded.ask("/page", "POST")[0] == 200
    assert came == [50.0 + min(2, len(parts))]
    assert guarded.read == parts  # the application sees all of it, if it wants to


def test_what_is_no_question_always_comes_in() -> None:
    guarded = Guarded(most_inside=1)
    guarded.load.enter()
    assert [guarded.ask(path)[0] for path in ("/events", "/health/ready", "/metrics")] == [200, 200, 200]
    assert set(guarded.saw) == {AT_EASE}


def test_a_request_that_fails_makes_room_too() -> None:
    guarded = Guarded(most_inside=1, fails=True)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            guarded.ask()
    assert guarded.load.inside == 0


def test_a_worker_that_leaves_closes_connections_with_its_answers() -> None:
    guarded = Guarded()
    assert b"connection" not in guarded.ask()[1]
    guarded.presence.state = State.LEAVING
    for path in ("/recommend", "/events"):
        status, headers, _ = guarded.ask(path)
        assert (status, headers[b"connection"], headers[b"x"]) == (200, b"close", b"y")
