"""uvicorn's HTTP, with an end to what a client may send beside a body, and time for the first question of who came in last.

On its own it reads a head of any length into memory, and as many requests ahead as one read of the socket brings, and as it stops it closes a connection that it has just accepted: a question on
its way there would be lost.
"""

from __future__ import annotations

import time
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 65_536
"""Of a request's line and headers together, so also of a query string; and of what frames a body that comes in chunks."""
READ_AT: Final = "recsys.read_at"
"""Where in the scope stands when the head of the request was read, by `time.monotonic`: its turn comes after all that were read before."""
FIRST_QUESTION_SECONDS: Final = 1.0
"""For who is connected and has not asked yet, as the server stops."""
MAX_AHEAD: Final = 32
"""Requests that a connection may send before the first of them is answered: one read of the socket brings thousands."""


def _refusal(status: bytes, detail: bytes) -> bytes:
    body = b'{"detail":"%b"}' % detail
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


_LONG_HEAD: Final = _refusal(
    b"431 Request Header Fields Too Large", b"the head of the request is longer than %d bytes" % MAX_HEAD_BYTES
)
_FAR_AHEAD: Final = _refusal(
    b"429 Too Many Requests", b"more than %d requests on one connection that wait for their answers" % MAX_AHEAD
)


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    """Of the request that is being read, less its body."""
    _leaving = False
    """Whether the server stops, and waits for this connection's first question."""

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_LONG_HEAD)

    def on_headers_complete(self) -> None:
        """Refuse who asks too far ahead, and a long head that came at once; what is counted may hold the beginning of a body."""
        if len(self.pipeline) >= MAX_AHEAD:
            raise httptools.HttpParserError
        if self._head_bytes > MAX_HEAD_BYTES:
            length = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if length > MAX_HEAD_BYTES:
                raise httptools.HttpParserError
        self.scope[READ_AT] = time.monotonic()  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """The next answer begins: one that was asked for before this one was there has not waited for us meanwhile."""
        if self.pipeline:
            self.pipeline[-1][0].scope[READ_AT] = time.monotonic()  # type: ignore[typeddict-unknown-key]
        super().on_response_complete()

    def on_body(self, body: bytes) -> None:
        """A body has a limit of its own."""
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next request begins."""
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read."""
        if len(self.pipeline) >= MAX_AHEAD:
            self._refuse(_FAR_AHEAD)
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_LONG_HEAD)
        else:
            super().send_400_response(msg)

    def shutdown(self) -> None:
        """The server stops: close behind the answer that is on its way, or is about to be asked for."""
        if self.cycle is None:
            self._leaving = True
            self.loop.call_later(FIRST_QUESTION_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _refuse(self, refusal: bytes) -> None:
        self.transport.write(refusal)
        self.transport.close()
