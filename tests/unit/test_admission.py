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
        self.load = Load(lambda: 50.0, queue_seconds=0.02, most_inside=most_inside)
        self.presence = Presence(drain_seconds=0.0, most_requests=most_requests)
        self._admission = Admission(
            self._app,
            load=self.load,
            metrics=Metrics("s", self.registry),
            clock=lambda: 50.0,
            deadline_ms=100,
            presence=self.presence,
        )

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self.saw.append(ALLOWANCE.get())
        if self._fails:
            raise ZeroDivisionError
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"{}"})

    def ask(self, path: str = "/recommend", **headers: str) -> tuple[int, dict[bytes, bytes], Any]:
        """Status, headers and content of an answer."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request"}

        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "path": path, "headers": [(b"accept", b"*/*"), *named], READ_AT: self.read_at}
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
    guarded.load.level = 1.0
    guarded.read_at = 49.95
    assert guarded.ask()[0] == 200
    assert guarded.saw[-1].since == 49.95
    guarded.read_at = 49.9
    status, headers, _ = guarded.ask()
    assert (status, headers[b"retry-after"], len(guarded.saw)) == (429, b"1", 1)


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
