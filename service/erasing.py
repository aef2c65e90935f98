"""The live steps of deletions: what the running shop holds, in the database and in Redis. The files follow with `recsys tables`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from recsys.privacy.deletions import DATABASE, REDIS, Deletions, Receipt
from recsys.privacy.erasing import erase_rows
from service.traces import Traces

SETTLE_SECONDS: Final = 1.0
"""So long after a deletion's moment all that was on its way then is written: see `service.event_log.FLUSH_SECONDS`."""

logger = logging.getLogger(__name__)


class Eraser:
    """Begins deletions and does their live steps, in a thread of its own or a command; a step that fails is done by the next look."""

    def __init__(self, engine: Engine, deletions: Deletions, traces: Traces, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._deletions = deletions
        self._traces = traces
        self._clock = clock

    def delete(self, user_id: str) -> Receipt:
        """Delete a shopper; what their receipt says now. Steps that it does not have as done are still to come."""
        receipt = self._deletions.begin(user_id, self._clock())
        self._go_on(receipt.receipt)
        return self._deletions.receipt(receipt.receipt)

    def look(self) -> None:
        """Go on with what is pending."""
        for receipt in self._deletions.pending():
            if not {DATABASE, REDIS} <= receipt.done.keys():
                self._go_on(receipt.receipt)

    def _go_on(self, name: str) -> None:
        """The steps that are missing. The log names the shopper by the keyed hash of the receipt."""
        with self._deletions.locked("live"):
            receipt = self._deletions.receipt(name)
            rest = datetime.fromisoformat(receipt.at).timestamp() + SETTLE_SECONDS - self._clock()
            time.sleep(min(max(0.0, rest), SETTLE_SECONDS))
            try:
                if DATABASE not in receipt.done:
                    erase_rows(self._engine, self._deletions, name)
                    self._deletions.finish(name, DATABASE, self._clock())
                if REDIS not in receipt.done:
                    self._erase_traces(receipt)
                    self._deletions.finish(name, REDIS, self._clock())
            except (DBAPIError, NoConnectionError, RedisError) as error:
                logger.warning("shopper %s is not deleted everywhere yet: %s", receipt.shopper, type(error).__name__)
            else:
                logger.info("shopper %s is deleted from the database and from Redis", receipt.shopper)

    def _erase_traces(self, receipt: Receipt) -> None:
        order, until = self._deletions.order(receipt.receipt), datetime.fromisoformat(receipt.at).timestamp()
        sessions = {**self._traces.sessions(order.user_id), **order.sessions}
        theirs = (order.user_id, sessions, order.event_ids, until)
        found = self._traces.count(*theirs)
        with self._deletions.removing(receipt.receipt, {f"redis/{kind}": count for kind, count in found.items()}):
            self._traces.remove(*theirs)
