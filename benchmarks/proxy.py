"""A TCP proxy that can be slow, or swallow what it is given: networks between a service and what it needs."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Final, Self

CHUNK: Final = 65_536


class Proxy(ThreadingTCPServer):
    """Passes on what comes to `port`, each connection to where `upstream` is when it is opened."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.upstream = upstream
        """A port of this machine."""
        self.delay_seconds = 0.0
        """Before each part of an answer is passed on."""
        self.swallows = False
        """Half-open: connections stand and are opened, what comes in either direction goes nowhere."""
        self.open: set[socket.socket] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def drop(self) -> None:
        """Break all connections that stand."""
        for one in tuple(self.open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.drop()
        super().__exit__(kind, error, trace)


class _Passing(BaseRequestHandler):
    server: Proxy
    request: socket.socket

    def handle(self) -> None:
        """One connection, until either side ends it."""
        try:
            other = socket.create_connection(("127.0.0.1", self.server.upstream))
        except OSError:
            return  # nobody there: the connection is closed at once
        ends = {self.request, other}
        self.server.open |= ends
        try:
            for end in ends:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pass, args=(other, self.request, True), daemon=True)
            back.start()
            self._pass(self.request, other, False)
            back.join()
        finally:
            self.server.open -= ends
            other.close()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):  # the other side has gone: so does this one
            while data := source.recv(CHUNK):
                if answers and self.server.delay_seconds:
                    time.sleep(self.server.delay_seconds)
                if not self.server.swallows:
                    target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
