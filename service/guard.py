"""The door: who asks is known by a key, and may, or may not, or not so often. Pure ASGI, since every request passes it."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Access
from service.keys import Key, KeysHolder, Role
from service.metrics import Metrics
from service.problem import problem
from service.rate_limits import RateLimits

UNKNOWN: Final = "unauthorized"
FORBIDDEN: Final = "forbidden"
LIMITED: Final = "limited"
KEY: Final = "recsys.key"
"""Where in the scope a route finds the `Key` of who asks."""
_SAFE: Final = ("GET", "HEAD")
_REALM: Final = 'realm="recsys"'


class Guard:
    """Lets a request through to `app` or refuses it, with 401, 403 or 429."""

    def __init__(self, app: ASGIApp, access: Access, keys: KeysHolder, rates: RateLimits, metrics: Metrics) -> None:
        """Open to everybody while `keys` holds none."""
        self._app = app
        self._access = access
        self._keys = keys
        self._rates = rates
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and (needed := self._access.needed(scope["method"], scope["path"])) is not None:
            ring = self._keys.ring
            key = None if ring is None else ring.find(shown(scope))
            if wait := await self._rates.wait(key, scope["client"], is_open=ring is None):
                self._metrics.turned_away(LIMITED)
                refused = problem(429, f"too many requests: ask again in {wait} s", {"retry-after": str(wait)})
                await refused(scope, receive, send)
                return
            if ring is not None and (key is None or not key.role.may(needed)):
                await self._refuse(key, needed, scope)(scope, receive, send)
                return
            scope[KEY] = key
        await self._app(scope, receive, send)

    def _refuse(self, key: Key | None, needed: Role, scope: Scope) -> Response:
        if key is not None:
            self._metrics.turned_away(FORBIDDEN)
            return problem(403, f"a key of the role {key.role} may not: this needs the role {needed}")
        self._metrics.turned_away(UNKNOWN)
        # A browser asks for the key of a page that is for staff, and never over the storefront.
        asks = "Basic" if scope["method"] in _SAFE and needed is not Role.WIDGET else "Bearer"
        detail = f"this needs a key of the role {needed}: send it as `Authorization: Bearer KEY`"
        if shown(scope):
            detail = f"the key that was sent is not in force: {detail}"
        return problem(401, detail, {"www-authenticate": f"{asks} {_REALM}"})


def shown(scope: Scope) -> bytes:
    """The key that a request shows, empty where it shows none: a bearer's token, or a password.

    A browser sends a password by itself, also where another site's page makes it ask; so with a password one may only read.
    """
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            match scheme.lower():
                case b"bearer":
                    return bytes(credentials.strip())
                case b"basic" if scope["method"] in _SAFE:
                    return _password(credentials)
    return b""


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
