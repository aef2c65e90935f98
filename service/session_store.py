"""Recent history in Redis: what happened since the bundle was trained, for each user and session.

A history is one byte string of fixed-size records in the order of time. One script checks whether an event is a duplicate, puts it into the
histories and joins an anonymous session to the user who logs in: all of it happens, or nothing. Whatever is offered again changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import numpy as np
import redis.asyncio as redis
from interlock import CircuitOpenError
from numpy.typing import NDArray
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from recsys.events import EVENT_CODE, EVENT_WEIGHT, EventType
from recsys.ids import hash_id
from service.breakers import breaker

logger = logging.getLogger(__name__)
T = TypeVar("T")

RECORD: Final = np.dtype([("item", "<u8"), ("received", "<f8"), ("type", "u1")])
"""Item id hash, Unix time at which the service took the event, event code; in a session's history the code of what a user's history
has too is marked with `JOINED`."""
_PACK: Final = struct.Struct("<QdB").pack
"""One record."""
JOINED: Final = 0x80
DUPLICATE_DAYS: Final = 7
TREND_HOURS: Final = 24
_HOUR: Final = 3_600
_EVENTS_A_CALL: Final = 50
_BACKGROUND_SECONDS: Final = 1.0
"""For questions that no shopper waits for."""
_SLICES: Final = 4
"""Of the time that an answer waits for Redis; see `_within`."""

_HISTORIES: Final = """
local SIZE = 17
local shop, keep, seconds = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local function received(records, at) return (struct.unpack('<d', records, at + 8)) end
local function code(records, at) return records:byte(at + 16) % 128 end

-- A record goes where its time belongs; nothing changes where it is there already.
local function insert(key, record)
  local length, moment = redis.call('STRLEN', key), received(record, 1)
  if length < SIZE or received(redis.call('GETRANGE', key, length - SIZE, -1), 1) < moment then
    length = redis.call('APPEND', key, record)
    if length > keep then redis.call('SET', key, redis.call('GETRANGE', key, length - keep, -1)) end
  else
    local records = redis.call('GET', key)
    local at = #records - SIZE + 1
    while at >= 1 and received(records, at) >= moment do
      if records:sub(at, at + 15) == record:sub(1, 16) and code(records, at) == code(record, 1) then return end
      at = at - SIZE
    end
    records = records:sub(1, at + SIZE - 1) .. record .. records:sub(at + SIZE)
    redis.call('SET', key, records:sub(-keep))
  end
  redis.call('EXPIRE', key, seconds)
end

local function joined(record) return record:sub(1, 16) .. string.char(code(record, 1) + 128) end

-- Whose a session is, and since when, as `<d` and the user.
local function owner(session)
  local known = redis.call('GET', shop .. ':m:' .. session)
  if known then return known:sub(9), (struct.unpack('<d', known)) end
end

-- From this moment on the session is the user's. What it did before is the user's too, unless it was another's.
local function join(session, user, moment)
  local before, since = owner(session)
  if before and before ~= user and moment < since then return end
  if before ~= user then redis.call('SET', shop .. ':m:' .. session, struct.pack('<d', moment) .. user) end
  redis.call('EXPIRE', shop .. ':m:' .. session, seconds)
  local key = shop .. ':s:' .. session
  local records = not before and redis.call('GET', key)
  if not records then return end
  local marked = {}
  for at = 1, #records - SIZE + 1, SIZE do
    local record = records:sub(at, at + SIZE - 1)
    if record:byte(SIZE) < 128 then insert(shop .. ':u:' .. user, record) end
    marked[#marked + 1] = joined(record)
  end
  redis.call('SET', key, table.concat(marked), 'EX', seconds)
end
"""
# ARGV of both: shop, keep bytes, history seconds.
# Then duplicate seconds and trend seconds, and for each event: id, record, item id, weight, trend hour, user or '', session or ''.
_APPEND: Final = (
    _HISTORIES
    + """
local function add(id, record, item, weight, hour, user, session)
  if not redis.call('SET', shop .. ':e:' .. id, '1', 'NX', 'EX', ARGV[4]) then return 0 end
  if session ~= '' then
    if user ~= '' then join(session, user, received(record, 1)) else user = owner(session) or '' end
    insert(shop .. ':s:' .. session, user == '' and record or joined(record))
  end
  if user ~= '' then insert(shop .. ':u:' .. user, record) end
  if weight ~= '0' then
    redis.call('ZINCRBY', shop .. ':trend:' .. hour, weight, item)
    redis.call('EXPIRE', shop .. ':trend:' .. hour, ARGV[5])
  end
  return 1
end
local added = 0
for at = 6, #ARGV, 7 do
  added = added + add(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6])
end
return added
"""
)
# ARGV: session, user, Unix time.
_JOIN: Final = _HISTORIES + "join(ARGV[4], ARGV[5], tonumber(ARGV[6]))"
# KEYS: who leads, until when all is complete. ARGV: this process, Unix time.
_RETIRE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1])
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
    ) -> None:
        """See `service.settings.Settings` for the numbers."""
        # Nothing is tried twice: an answer has no time for it, and a Redis in trouble no use for it.
        self._client: redis.Redis = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
        self._append = self._client.register_script(_APPEND)
        self._join = self._client.register_script(_JOIN)
        self._retire = self._client.register_script(_RETIRE)
        self._token = secrets.token_hex(8)
        self._shop = shop
        self._timeout = timeout_ms / 1_000
        self._breaker = breaker("Redis", least=5, retry_seconds=retry_ms / 1_000, is_away=_is_away)
        self._keep_bytes = history_events * RECORD.itemsize
        self.history_seconds = history_days * 86_400
        self.behind_since: float | None = None
        """When the first event was received that could not be added; who adds it takes it back."""
        self._wanted: list[tuple[list[str], asyncio.Future[list[bytes | None]]]] = []
        self._asking = set[asyncio.Task[None]]()
        """Whom the loop knows only weakly."""

    # Reading

    async def histories(
        self, user_id: str | None, session_id: str | None, seconds: float = float("inf")
    ) -> tuple[Records, Records]:
        """The user's and the session's records, oldest first; empty where none. Waits no longer than `seconds`.

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
        values = [_decode(value) for value in await self._get(keys, seconds)]
        user = values[0] if user_id is not None else NO_RECORDS
        session = values[-1] if session_id is not None else NO_RECORDS
        return user, _unmarked(session)

    async def _get(self, keys: list[str], seconds: float) -> list[bytes | None]:
        """Values of keys; all that is wanted in one turn of the loop goes out as one MGET."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[list[bytes | None]] = loop.create_future()
        if not self._wanted:
            asking = loop.create_task(self._ask())
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
        self._wanted.append((keys, result))
        if seconds == float("inf"):
            return await result
        late = loop.call_later(max(0.0, seconds), _give_up, result)
        try:
            return await result
        finally:
            late.cancel()

    async def _ask(self) -> None:
        wanted, self._wanted = self._wanted, []
        keys = [key for part, _ in wanted for key in part]
        try:
            values = cast(list[bytes | None], await self._guarded(self._timeout, lambda: self._client.mget(keys)))
        except Exception as error:  # whatever it is, nobody waits for ever
            if not isinstance(error, StoreUnavailableError):
                logger.exception("Redis could not be asked")
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

    async def append(self, events: Sequence[LiveEvent]) -> None:
        """Add events to the histories, those that are there already excepted.

        With Redis away nothing is raised: the events are in the database, and `service.healing` adds them when Redis is back.
        """
        if not events:
            return
        try:
            await self.offer(events)
        except StoreUnavailableError:
            self.note_behind(min(event.received for event in events))

    def note_behind(self, since: float) -> None:
        """Events received since then may be missing."""
        self.behind_since = since if self.behind_since is None else min(since, self.behind_since)

    async def offer(self, events: Sequence[LiveEvent]) -> int:
        """The same; how many were new.

        Raises:
            StoreUnavailableError: Redis cannot be asked now.
        """
        # Some events in each call of the script: nobody else reads meanwhile.
        now = time.time()
        async with self._client.pipeline(transaction=False) as pipeline:
            for start in range(0, len(events), _EVENTS_A_CALL):
                members = [part for event in events[start : start + _EVENTS_A_CALL] for part in _arguments(event, now)]
                head = (*self._common(), DUPLICATE_DAYS * 86_400, 2 * TREND_HOURS * _HOUR)
                await self._append(args=[*head, *members], client=pipeline)
            # A batch may be a thousand events: it gets more time than one read.
            results = await self._guarded(self._timeout * (1 + len(events) / 20), pipeline.execute)
        return sum(results)

    async def join(self, session_id: str, user_id: str, at: float) -> None:
        """From this moment on the session is the user's, and so is what it did before anybody logged in.

        Raises:
            StoreUnavailableError: Redis cannot be asked now.
        """
        arguments = [*self._common(), session_id, user_id, at]
        await self._guarded(self._timeout, lambda: self._join(args=arguments))

    def _common(self) -> list[int | str]:
        return [self._shop, self._keep_bytes, self.history_seconds]

    # How far the histories are complete

    async def complete_until(self) -> float | None:
        """Unix time until which the histories hold all events; None for a Redis that was never filled, or was emptied.

        Raises:
            StoreUnavailableError: Redis cannot be asked now.
        """
        value = await self._ask_once(self._client.get(f"{self._shop}:complete"))
        return None if value is None else float(value)

    async def stay_complete(self, until: float) -> None:
        """Histories that were complete still are. A Redis that was emptied since it was asked stays known as such."""
        await self._ask_once(self._client.set(f"{self._shop}:complete", until, xx=True))

    async def lead(self, seconds: int, *, again: bool = False) -> bool:
        """Whether this process, of all workers, is the one to fill the histories for the next seconds."""
        key = f"{self._shop}:healing"
        if again:
            return bool(await self._ask_once(self._client.expire(key, seconds)))
        return bool(await self._ask_once(self._client.set(key, self._token, nx=True, ex=seconds)))

    async def retire(self, complete_until: float) -> bool:
        """Note that the histories hold all events, and let another worker lead. False where this one leads no more: Redis was emptied, or
        another one has begun, so that nobody knows."""
        keys = [f"{self._shop}:healing", f"{self._shop}:complete"]
        return bool(await self._ask_once(self._retire(keys=keys, args=[self._token, complete_until])))

    async def _ask_once(self, question: Awaitable[Any]) -> Any:
        """A question of the background: that it went wrong says nothing of the answers that shoppers wait for."""
        try:
            async with asyncio.timeout(max(_BACKGROUND_SECONDS, self._timeout)):
                return await question
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailableError(str(error)) from error

    # Popularity

    async def trend(self, now: float, n: int) -> Mapping[str, float]:
        """Summed event weights of the last 24 hours by item id, the n largest.

        Raises:
            StoreUnavailableError: Redis cannot be asked now.
        """
        hour = int(now // _HOUR)
        keys = [f"{self._shop}:trend:{hour - back}" for back in range(TREND_HOURS)]
        found = cast(list[tuple[bytes, float]], await self._ask_once(self._client.zunion(keys, withscores=True)))
        ordered = sorted(found, key=lambda pair: (-pair[1], pair[0]))[:n]
        return {item.decode("utf-8", "surrogatepass"): score for item, score in ordered}

    async def publish_popular(self, version: str, item_ids: Sequence[str]) -> None:
        """Write a bundle's popularity list where other readers find it: `<shop>:popular`, best first."""
        if not item_ids:
            return
        try:
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.delete(f"{self._shop}:popular")
                pipeline.rpush(f"{self._shop}:popular", *item_ids)
                pipeline.set(f"{self._shop}:popular:version", version)
                await self._ask_once(pipeline.execute())
        except StoreUnavailableError as error:
            logger.warning("the popularity list could not be written to Redis: %s", error)

    # The circuit

    async def _guarded(self, seconds: float, ask: Callable[[], Awaitable[T]]) -> T:
        """What Redis says within so many seconds.

        Raises:
            StoreUnavailableError: it does not, it says that it cannot, or it has failed again and again just now.
        """
        try:
            return await self._breaker.call_async(_within, seconds, ask)
        except CircuitOpenError as error:
            raise StoreUnavailableError("Redis has just failed") from error
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailableError(repr(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _is_away(error: Exception) -> bool:
    """That it refuses a write, since its memory or its disk is full, is an answer."""
    return not isinstance(error, ResponseError)


def _give_up(result: asyncio.Future[list[bytes | None]]) -> None:
    if not result.done():
        result.set_exception(StoreUnavailableError("the request has no time left to wait for Redis"))


async def _within(seconds: float, ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, if it comes in time.

    Waits in slices. One in which this process was busy with other requests takes longer and counts no more: an answer that lies
    there unread, or a question that has not been sent, is no fault of Redis.

    Raises:
        TimeoutError: it does not.
    """
    task = asyncio.ensure_future(ask())
    try:
        for _ in range(_SLICES):
            await asyncio.wait((task,), timeout=seconds / _SLICES)
            if task.done():
                return task.result()
    finally:
        if not task.done():
            task.cancel()  # which closes the connection: what comes on it later is nobody's answer
    await asyncio.gather(task, return_exceptions=True)
    raise TimeoutError(f"no answer within {seconds:.3f} s")


def _decode(value: bytes | None) -> Records:
    if not value:
        return NO_RECORDS
    # A foreign or truncated value must not cost the answer: whole records count.
    return np.frombuffer(value, dtype=RECORD, count=len(value) // RECORD.itemsize)


def _unmarked(records: Records) -> Records:
    """The same records without the mark of those that a user's history has too."""
    if len(records) == 0:
        return records
    plain = records.copy()
    plain["type"] &= 0xFF - JOINED
    return plain


def _arguments(event: LiveEvent, now: float) -> tuple[bytes | int | str, ...]:
    """What the script needs of an event. One that comes in late is no trend."""
    record = _PACK(hash_id(event.item_id), event.received, EVENT_CODE[event.type])
    weight = f"{EVENT_WEIGHT[event.type]:g}" if now - event.received < TREND_HOURS * _HOUR else "0"
    hour = int(event.received // _HOUR)
    return event.event_id, record, event.item_id, weight, hour, event.user_id or "", event.session_id or ""
