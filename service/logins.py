"""Requests that name a session and a user: from then on the session's history is the user's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from service.event_log import EventLog
from service.session_store import SessionStore, StoreUnavailableError

REMEMBERED: Final = 50_000
"""Sessions that this process need not ask about."""
REMEMBER_SECONDS: Final = 10.0
"""Another worker may have seen somebody else log in since."""


class Logins:
    """Tells Redis and the database of logins that requests show. Events show theirs themselves."""

    def __init__(self, store: SessionStore, log: EventLog, clock: Callable[[], float]) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def note(self, user_id: str | None, session_id: str | None) -> None:
        """Join the two, where this was not done a moment ago. With Redis away the histories are joined by the next request."""
        if user_id is None or session_id is None:
            return
        now = self._clock()
        user, until = self._known.get(session_id, ("", 0.0))
        if user == user_id and now < until:
            return
        self._log.login(session_id, user_id, now)  # the database knows it even if no further request says so
        try:
            await self._store.join(session_id, user_id, now)
        except StoreUnavailableError:
            return
        self._known[session_id] = (user_id, now + REMEMBER_SECONDS)
        self._known.move_to_end(session_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
