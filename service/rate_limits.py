"""How often a key or an address may ask: counted in Redis for all workers, in this process while Redis is away.

The counting is the package limits' (a sliding window: the current one and a share of the one before). Asking Redis at every request would cost more than many an
answer does, so a worker takes a hundredth of a limit at once and lets that through by itself; and whoever is over a limit is refused without asking again until
there is room. So a limit holds to a hundredth for each worker.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis import asyncio as redis
from redis.exceptions import RedisError

from service.keys import Key, Role
from service.settings import DEFAULT_ADDRESS_LIMIT, LIMIT_OFF, Settings

SHARE: Final = 100
"""Of a limit, what is taken at once: one part in so many."""
MOST_HELD: Final = 100_000
"""Askers that are remembered; then all are forgotten, which costs each at most what was taken for it."""
_V6_NETWORK: Final = 64
"""Bits that tell one connection to the Internet from another; the rest its owner chooses freely."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """What is known of an asker until a moment: how many more may pass. At none it is refused until then."""

    left: int
    until: float


class RateLimiter:
    """Counts requests against limits."""

    def __init__(
        self, redis_url: str, *, shop: str, timeout_ms: int, retry_ms: int, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives Unix time; see `service.settings.Settings` for the rest."""
        self._pool = redis.ConnectionPool.from_url(redis_url)
        options: dict[str, Any] = {
            "implementation": "redispy",
            "connection_pool": self._pool,
        }  # the address is the pool's
        storage = RedisStorage("async+redis://", key_prefix=f"{shop}:limit", **options)
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._timeout = timeout_ms / 1_000
        self._retry = retry_ms / 1_000
        self._clock = clock
        self._away_until = 0.0
        self._held: dict[tuple[RateLimitItem, str], _Held] = {}

    async def wait(self, limit: RateLimitItem, who: str) -> float:
        """Count a request; the seconds after which it may be sent again, 0 where it may pass."""
        now = self._clock()
        held = self._held.get((limit, who))
        if held is None or now >= held.until:
            held = await self._ask(limit, who, now)
        if held.left == 0:
            return max(held.until - now, 0.001)
        held.left -= 1
        if held.left == 0:
            held.until = now  # not refused: the next one asks
        return 0.0

    async def close(self) -> None:
        """Let go of Redis."""
        await self._pool.aclose()

    async def _ask(self, limit: RateLimitItem, who: str, now: float) -> _Held:
        if len(self._held) >= MOST_HELD:
            self._held.clear()
        if now >= self._away_until:
            try:
                async with asyncio.timeout(self._timeout):
                    found = await _taken(self._shared, limit, who, now)
            except (RedisError, OSError, TimeoutError) as error:
                self._away_until = now + self._retry
                logger.warning("limits are counted in this process: Redis does not answer: %r", error)
                found = await _taken(self._own, limit, who, now)
        else:
            found = await _taken(self._own, limit, who, now)
        before = self._held.get((limit, who))
        if before is not None and found.left and now < before.until:
            found.left += before.left  # another request asked at the same time
        self._held[limit, who] = found
        return found


async def _taken(counted: SlidingWindowCounterRateLimiter, limit: RateLimitItem, who: str, now: float) -> _Held:
    """A share of what is left, or where there is less one request, or a refusal."""
    for cost in dict.fromkeys((max(1, limit.amount // SHARE), 1)):
        if await counted.hit(limit, who, cost=cost):
            return _Held(cost, now + limit.get_expiry())
    room = await counted.get_window_stats(limit, who)
    return _Held(0, room.reset_time)


class RateLimits:
    """Which limits a request is under: its address' where everybody could have sent it, and its key's where it has one."""

    def __init__(self, limiter: RateLimiter, settings: Settings) -> None:
        """See `Settings.address_limit`."""
        self._limiter = limiter
        given = settings.address_limit
        self._closed = None if given == LIMIT_OFF else parse(given or DEFAULT_ADDRESS_LIMIT)
        self._open = self._closed if given else None

    async def wait(self, key: Key | None, client: tuple[str, int] | None, *, is_open: bool) -> int:
        """Count a request; the whole seconds after which it may be sent again, 0 where it may pass; `client` is its address and port."""
        waits = 0.0
        if key is None or key.role is Role.WIDGET:
            limit = self._open if is_open else self._closed
            if limit is not None:
                waits = await self._limiter.wait(limit, f"address:{connection(client[0]) if client else None}")
        if key is not None and key.limit is not None and not waits:
            waits = await self._limiter.wait(_parsed(key.limit), f"key:{key.name}")
        return math.ceil(waits)

    async def close(self) -> None:
        """Let go of Redis."""
        await self._limiter.close()


_parsed = lru_cache(maxsize=1_024)(parse)


@lru_cache(maxsize=65_536)
def connection(address: str) -> str:
    """What tells one client from another: an IPv4 address, the network of an IPv6 one; any other text as it is."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, _V6_NETWORK), strict=False))
    return address
