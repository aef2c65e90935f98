"""Recent history in Redis: what happened since the bundle was trained, for each user and session.

A history is one byte string of fixed-size records, appended by a script that first checks whether the event is a
duplicate; so the check, the history and the trend change together or not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import redis.asyncio as redis
from numpy.typing import NDArray
from redis.exceptions import RedisError

from recsys.events import EVENT_CODE, EVENT_WEIGHT, EventType
from recsys.ids import hash_id

logger = logging.getLogger(__name__)

RECORD: Final = np.dtype([("item", "<u8"), ("received", "<f8"), ("type", "u1")])
"""Item id hash, Unix time at which the service took the event, event code."""
DUPLICATE_DAYS: Final = 7
TREND_HOURS: Final = 24
_HOUR: Final = 3_600

# KEYS: event, trend bucket, then the histories. ARGV: record, keep bytes, history seconds, duplicate seconds, item id, weight.
_APPEND: Final = """
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[4]) then return 0 end
for i = 3, #KEYS do
  local length = redis.call('APPEND', KEYS[i], ARGV[1])
  local keep = tonumber(ARGV[2])
  if length > keep then redis.call('SET', KEYS[i], redis.call('GETRANGE', KEYS[i], length - keep, -1)) end
  redis.call('EXPIRE', KEYS[i], ARGV[3])
end
redis.call('ZINCRBY', KEYS[2], ARGV[6], ARGV[5])
redis.call('EXPIRE', KEYS[2], 172800)
return 1
"""


class StoreUnavailableError(Exception):
    """Redis does not answer, or has just failed to."""


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """An event on its way into the histories."""

    event_id: str
    type: EventType
    item_id: str
    user_id: str | None
    session_id: str | None
    received: float


Records = NDArray[Any]
NO_RECORDS: Final[Records] = np.empty(0, dtype=RECORD)


class SessionStore:
    """Histories of users and sessions, and hourly trends, in one Redis."""

    def __init__(
        self,
        url: str,
        *,
        shop: str,
        timeout_ms: int,
        retry_ms: int,
        history_events: int,
        history_days: int,
        pending_events: int,
    ) -> None:
        """See `service.settings.Settings` for the numbers."""
        self._client: redis.Redis = redis.Redis.from_url(url)
        self._append = self._client.register_script(_APPEND)
        self._shop = shop
        self._timeout = timeout_ms / 1_000
        self._retry = retry_ms / 1_000
        self._keep_bytes = history_events * RECORD.itemsize
        self._history_seconds = history_days * 86_400
        self._down_until = 0.0
        self._pending: deque[LiveEvent] = deque(maxlen=pending_events)
        self._wanted: list[tuple[list[str], asyncio.Future[list[bytes | None]]]] = []

    # Reading

    async def histories(self, user_id: str | None, session_id: str | None) -> tuple[Records, Records]:
        """The user's and the session's records, oldest first; empty where none.

        Raises:
            StoreUnavailableError: Redis cannot be asked now.
        """
        keys = []
        if user_id is not None:
            keys.append(f"{self._shop}:u:{user_id}")
        if session_id is not None:
            keys.append(f"{self._shop}:s:{session_id}")
        if not keys:
            return NO_RECORDS, NO_RECORDS
        values = [_decode(value) for value in await self._get(keys)]
        user = values[0] if user_id is not None else NO_RECORDS
        session = values[-1] if session_id is not None else NO_RECORDS
        return user, session

    async def _get(self, keys: list[str]) -> list[bytes | None]:
        """Values of keys; all that is wanted in one turn of the loop goes out as one MGET."""
        self._check_circuit()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[list[bytes | None]] = loop.create_future()
        if not self._wanted:
            loop.call_soon(self._ask)
        self._wanted.append((keys, result))
        return await result

    def _ask(self) -> None:
        wanted, self._wanted = self._wanted, []
        self._asking = asyncio.ensure_future(self._answer(wanted))

    async def _answer(self, wanted: Sequence[tuple[list[str], asyncio.Future[list[bytes | None]]]]) -> None:
        keys = [key for part, _ in wanted for key in part]
        try:
            async with asyncio.timeout(self._timeout):
                values = cast(list[bytes | None], await self._client.mget(keys))
        except (RedisError, OSError, TimeoutError) as error:
            self._open_circuit(error)
            for _, result in wanted:
                if not result.done():
                    result.set_exception(StoreUnavailableError(str(error)))
            return
        start = 0
        for part, result in wanted:
            if not result.done():
                result.set_result(values[start : start + len(part)])
            start += len(part)

    # Writing

    async def append(self, events: Sequence[LiveEvent]) -> list[bool]:
        """Add events to the histories; True for each that was new, False for a duplicate.

        With Redis away the events wait in this process and are added when it is back; they then count as new.
        """
        if not events:
            return []
        try:
            self._check_circuit()
            return await self._apply(events)
        except StoreUnavailableError:
            self._pending.extend(events)
            return [True] * len(events)

    @property
    def pending(self) -> int:
        """Events that wait for Redis."""
        return len(self._pending)

    async def recover(self) -> None:
        """Try to add the events that wait. Called every now and then."""
        if not self._pending:
            return
        waiting = list(self._pending)
        try:
            self._check_circuit()
            await self._apply(waiting)
        except StoreUnavailableError:
            return
        for _ in waiting:
            self._pending.popleft()
        logger.info("%d events that had waited for Redis are in the histories", len(waiting))

    async def _apply(self, events: Sequence[LiveEvent]) -> list[bool]:
        pipeline = self._client.pipeline(transaction=False)
        for event in events:
            await self._append(keys=self._keys(event), args=self._arguments(event), client=pipeline)
        try:
            # A batch may be a thousand scripts: it gets more time than one read.
            async with asyncio.timeout(self._timeout * (1 + len(events) / 20)):
                results = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._open_circuit(error)
            raise StoreUnavailableError(str(error)) from error
        return [result == 1 for result in results]

    def _keys(self, event: LiveEvent) -> list[str]:
        bucket = int(event.received // _HOUR)
        keys = [f"{self._shop}:e:{event.event_id}", f"{self._shop}:trend:{bucket}"]
        if event.user_id is not None:
            keys.append(f"{self._shop}:u:{event.user_id}")
        if event.session_id is not None:
            keys.append(f"{self._shop}:s:{event.session_id}")
        return keys

    def _arguments(self, event: LiveEvent) -> list[bytes | int | str | float]:
        record = np.array((hash_id(event.item_id), event.received, EVENT_CODE[event.type]), dtype=RECORD).tobytes()
        duplicate_seconds = DUPLICATE_DAYS * 86_400
        weight = EVENT_WEIGHT[event.type]
        return [record, self._keep_bytes, self._history_seconds, duplicate_seconds, event.item_id, weight]

    # Popularity

    async def trend(self, now: float, n: int) -> Mapping[str, float]:
        """Summed event weights of the last 24 hours by item id, the n largest.

        Raises:
            StoreUnavailableError: Redis cannot be asked now.
        """
        self._check_circuit()
        hour = int(now // _HOUR)
        keys = [f"{self._shop}:trend:{hour - back}" for back in range(TREND_HOURS)]
        try:
            async with asyncio.timeout(1.0):
                found = cast(list[tuple[bytes, float]], await self._client.zunion(keys, withscores=True))
        except (RedisError, OSError, TimeoutError) as error:
            self._open_circuit(error)
            raise StoreUnavailableError(str(error)) from error
        ordered = sorted(found, key=lambda pair: (-pair[1], pair[0]))[:n]
        return {item.decode("utf-8", "surrogatepass"): score for item, score in ordered}

    async def publish_popular(self, version: str, item_ids: Sequence[str]) -> None:
        """Write a bundle's popularity list where other readers find it: `<shop>:popular`, best first."""
        if not item_ids:
            return
        try:
            self._check_circuit()
            async with asyncio.timeout(1.0), self._client.pipeline(transaction=True) as pipeline:
                pipeline.delete(f"{self._shop}:popular")
                pipeline.rpush(f"{self._shop}:popular", *item_ids)
                pipeline.set(f"{self._shop}:popular:version", version)
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._open_circuit(error)
        except StoreUnavailableError:
            return

    # The circuit

    @property
    def available(self) -> bool:
        """Whether Redis would be asked now."""
        return asyncio.get_running_loop().time() >= self._down_until

    def _check_circuit(self) -> None:
        if not self.available:
            raise StoreUnavailableError("Redis has just failed")

    def _open_circuit(self, error: BaseException) -> None:
        """After a failure Redis is left alone for a while: requests must not queue up behind time-outs."""
        if self.available:
            logger.warning("Redis does not answer (%r): popularity answers for %.1f s", error, self._retry)
        self._down_until = asyncio.get_running_loop().time() + self._retry

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _decode(value: bytes | None) -> Records:
    if not value:
        return NO_RECORDS
    # A foreign or truncated value must not cost the answer: whole records count.
    return np.frombuffer(value, dtype=RECORD, count=len(value) // RECORD.itemsize)
