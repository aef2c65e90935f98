"""What every answer forbids a browser."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]
_ALWAYS: Final[Headers] = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
DATA: Final[Headers] = [
    *_ALWAYS,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
"""An answer speaks of one shopper: nobody on the way keeps it, and no browser runs anything in it."""
PAGE: Final[Headers] = [
    *_ALWAYS,
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: https: http:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
]
"""Scripts, styles and questions from this service alone; a catalogue's own pictures may come from elsewhere."""
DOCS: Final[Headers] = [
    *_ALWAYS,
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-store"),
]
"""Swagger's page holds a script of its own, and nothing that a shopper or a catalogue said."""


class SecurityHeaders:
    """Adds them to the answers of `app`."""

    def __init__(self, app: ASGIApp, pages: frozenset[str]) -> None:
        """`pages` are paths of files for browsers; below /console are more."""
        self._app = app
        self._special = {**dict.fromkeys(pages, PAGE), "/docs": DOCS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        added = self._special.get(path) or (PAGE if path.startswith(("/console/", "/static-offline-docs/")) else DATA)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, with_headers)
