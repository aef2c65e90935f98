"""What Redis holds of one shopper: to be shown to them, or deleted. Off the hot path, on a connection of its own, without asyncio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import numpy as np
import redis
from numpy.typing import NDArray

from recsys.store.writing import in_parts
from service.session_store import JOINED, RECORD

TIMEOUT_SECONDS: Final = 10.0
_AT_ONCE: Final = 500
_FOREVER: Final = 1e12

Sessions = Mapping[str, Sequence[tuple[float, float]]]
"""From when until when, Unix time, each was the user's."""

# ARGV: shop, user, Unix time until which, '1' to remove or '0' to count, and for each period of a session: session, from, until.
# Returns how many records of histories, and how many logins.
_FORGET: Final = """
local SIZE = 17
local shop, user, till, really = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'

-- Takes the records from a history that were received in a period.
local function cut(key, from, to)
  local records, kept, removed = redis.call('GET', key), {}, 0
  if not records then return 0 end
  for at = 1, #records - SIZE + 1, SIZE do
    local moment = struct.unpack('<d', records, at + 8)
    if moment <= till and from <= moment and moment < to then removed = removed + 1
    else kept[#kept + 1] = records:sub(at, at + SIZE - 1) end
  end
  if really and removed > 0 then
    if #kept == 0 then redis.call('DEL', key) else redis.call('SET', key, table.concat(kept), 'KEEPTTL') end
  end
  return removed
end

local records, logins, seen = cut(shop .. ':u:' .. user, 0, math.huge), 0, {}
for at = 5, #ARGV, 3 do
  local session = ARGV[at]
  records = records + cut(shop .. ':s:' .. session, tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
  local owner = not seen[session] and redis.call('GET', shop .. ':m:' .. session)
  if owner and owner:sub(9) == user and struct.unpack('<d', owner) <= till then
    logins = logins + 1
    if really then redis.call('DEL', shop .. ':m:' .. session) end
  end
  seen[session] = true
end
return {records, logins}
"""


class Traces:
    """One shop's keys in Redis."""

    def __init__(self, url: str, shop: str) -> None:
        self._url = url
        self._shop = shop

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        client = redis.Redis.from_url(self._url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
        try:
            yield client
        finally:
            client.close()

    def sessions(self, user_id: str) -> Sessions:
        """Sessions that Redis takes for the user's now; it keeps no more than the last login of each.

        Raises:
            RedisError: Redis cannot be asked.
        """
        user, prefix = user_id.encode("utf-8", "surrogatepass"), f"{self._shop}:m:"
        found = {}
        with self._client() as client:
            for keys in in_parts(list(client.scan_iter(f"{prefix}*", count=_AT_ONCE))):
                owners = cast(list[bytes | None], client.mget(keys))
                for key, owner in zip(keys, owners, strict=True):
                    if owner is not None and owner[8:] == user:
                        found[key.decode("utf-8", "surrogatepass").removeprefix(prefix)] = [(0.0, _FOREVER)]
        return found

    def count(self, user_id: str, sessions: Sessions, event_ids: Sequence[str], until: float) -> dict[str, int]:
        """What `remove` would remove, by kind.

        Raises:
            RedisError: Redis cannot be asked.
        """
        with self._client() as client:
            ids = sum(int(client.exists(*keys)) for keys in self._ids(event_ids))
            return self._forget(client, user_id, sessions, until, "0") | {"event_ids": ids}

    def remove(self, user_id: str, sessions: Sessions, event_ids: Sequence[str], until: float) -> None:
        """Remove the user's records until a moment, Unix time, and what names their sessions and events.

        An append-only file is then written anew: what was removed would else stand in it.

        Raises:
            RedisError: Redis cannot be asked.
        """
        with self._client() as client:
            self._forget(client, user_id, sessions, until, "1")
            for keys in self._ids(event_ids):
                client.unlink(*keys)
            if client.info("persistence").get("aof_enabled"):
                client.bgrewriteaof()

    def histories(self, user_id: str, sessions: Sessions) -> Iterator[tuple[str, NDArray[Any]]]:
        """The key and the records, `RECORD`, of the user's history and of each of their sessions that has one.

        Raises:
            RedisError: Redis cannot be asked.
        """
        with self._client() as client:
            for key in (f"u:{user_id}", *(f"s:{session}" for session in sessions)):
                value = cast(bytes | None, client.get(f"{self._shop}:{key}"))
                if value:
                    records = np.frombuffer(value, dtype=RECORD, count=len(value) // RECORD.itemsize).copy()
                    records["type"] &= 0xFF - JOINED
                    yield key, records if key.startswith("u:") else _of_periods(records, sessions[key[2:]])

    def _forget(
        self, client: redis.Redis, user_id: str, sessions: Sessions, until: float, really: str
    ) -> dict[str, int]:
        periods = [part for session, some in sessions.items() for start, end in some for part in (session, start, end)]
        arguments: list[Any] = [self._shop, user_id, until, really, *periods]
        records, logins = cast(list[int], client.register_script(_FORGET)(args=arguments))
        return {"histories": records, "logins": logins}

    def _ids(self, event_ids: Sequence[str]) -> Iterator[list[str]]:
        for some in in_parts(event_ids):
            yield [f"{self._shop}:e:{event_id}" for event_id in some]


def _of_periods(records: NDArray[Any], periods: Sequence[tuple[float, float]]) -> NDArray[Any]:
    theirs = np.zeros(len(records), dtype=np.bool_)
    for start, end in periods:
        theirs |= (records["received"] >= start) & (records["received"] < end)
    return records[theirs]
