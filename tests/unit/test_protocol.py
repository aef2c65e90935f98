"""`service.protocol` in a server of uvicorn's, around an application of the test's own."""

from __future__ import annotations

import http.client
import threading
import time

import uvicorn
from starlette.types import Receive, Scope, Send

from service.protocol import READ_AT, BoundedHttp

WORK_SECONDS = 0.3


def test_a_request_says_when_it_was_read_however_late_its_turn_comes() -> None:
    busy, waited = threading.Event(), list[float]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        waited.append(time.monotonic() - scope[READ_AT])
        busy.set()
        time.sleep(WORK_SECONDS)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    server = uvicorn.Server(uvicorn.Config(app, http=BoundedHttp, lifespan="off", log_level="error"))
    door = uvicorn.Config(app, port=0).bind_socket()
    thread = threading.Thread(target=server.run, args=([door],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        connections = [http.client.HTTPConnection(*door.getsockname(), timeout=60) for _ in range(3)]
        for connection in connections:
            connection.connect()
        connections[0].request("GET", "/")
        assert busy.wait(60)
        for connection in connections[1:]:
            connection.request("GET", "/")  # read in one turn, after the first
        assert [connection.getresponse().status for connection in connections] == [200, 200, 200]
        for connection in connections:
            connection.close()
    finally:
        server.should_exit = True
        thread.join()
    assert waited[2] >= WORK_SECONDS
