"""`service.logins`: what a request shows of who a session belongs to."""

from __future__ import annotations

import asyncio
from typing import Any

from service.logins import Logins
from service.session_store import StoreUnavailableError


class Told:
    """Redis and the log, as far as logins are concerned."""

    def __init__(self) -> None:
        self.away = False
        self.joined: list[tuple[str, str]] = []
        self.logged: list[tuple[str, str]] = []

    async def join(self, session_id: str, user_id: str, _at: float) -> None:
        if self.away:
            raise StoreUnavailableError("away")
        self.joined.append((session_id, user_id))

    def login(self, session_id: str, user_id: str, _at: float) -> None:
        self.logged.append((session_id, user_id))


def test_a_login_reaches_the_database_with_redis_away_and_redis_with_a_later_request() -> None:
    told = Told()
    store: Any = told
    logins = Logins(store, store, lambda: 1_790_000_000.0)
    told.away = True
    asyncio.run(logins.note("ann", "s"))
    assert (told.joined, told.logged) == ([], [("s", "ann")])
    told.away = False
    for _ in range(2):
        asyncio.run(logins.note("ann", "s"))
    assert told.joined == [("s", "ann")]
