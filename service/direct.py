"""The short way to the route that is asked far more often than all others: past FastAPI's routing, to the function that the route calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

METHOD: Final = "GET"
PATH: Final = "/recommend"


class Direct:
    """Answers `GET /recommend` with `answer`, which is told the scope; all else goes on to `app`, which documents that route too.

    Pure ASGI and the innermost: keys, limits, admission and headers stand around it as around every other route.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Scope], Awaitable[Response]]) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == METHOD:
            response = await self._answer(scope)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)
