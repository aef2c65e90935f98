"""`service.protocol` in a server of uvicorn's, around an application of the test's own."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.protocol import READ_AT, BoundedHttp

WORK_SECONDS = 0.3


@contextmanager
def served(app: ASGIApp) -> Iterator[tuple[str, int]]:
    """The application behind our protocol, at an address of its own."""
    server = uvicorn.Server(uvicorn.Config(app, http=BoundedHttp, lifespan="off", log_level="error"))
    door = uvicorn.Config(app, port=0).bind_socket()
    thread = threading.Thread(target=server.run, args=([door],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield door.getsockname()
    finally:
        server.should_exit = True
        thread.join()


def test_an_answer_that_waits_for_the_one_before_it_has_not_waited_for_the_server() -> None:
    waited: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        waited.append(time.monotonic() - scope[READ_AT])
        if len(waited) == 1:
            await asyncio.sleep(WORK_SECONDS)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with served(app) as address, socket.create_connection(address, timeout=60) as connection:
        connection.sendall(2 * b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answers = b""
        while answers.count(b"200 OK") < 2:
            answers += connection.recv(65_536)
    assert waited[1] < WORK_SECONDS


def test_a_request_says_when_it_was_read_however_late_its_turn_comes() -> None:
    busy, asked, waited = threading.Event(), threading.Event(), list[float]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["path"] == "/":
            waited.append(time.monotonic() - scope[READ_AT])
            busy.set()
            # Nobody else has a turn meanwhile: as while an answer is made.
            assert asked.wait(60)
            time.sleep(WORK_SECONDS)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with served(app) as address, ExitStack() as stack:
        connections = [stack.enter_context(closing(http.client.HTTPConnection(*address, timeout=60))) for _ in range(3)]
        for connection in connections:
            connection.request("GET", "/let-in")
            connection.getresponse().read()
        connections[0].request("GET", "/")
        assert busy.wait(60)
        for connection in connections[1:]:
            connection.request("GET", "/")  # read in one turn, after the first
        asked.set()
        assert [connection.getresponse().status for connection in connections] == [200, 200, 200]
    assert waited[2] >= WORK_SECONDS
