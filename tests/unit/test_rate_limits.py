"""How often one may ask: in a real Redis for all workers, in the process while it is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from limits import parse
from pydantic import ValidationError

from service.keys import Key, Role
from service.rate_limits import RateLimiter, RateLimits, connection
from service.settings import Settings
from tests.redis_server import running_redis

AWAY = "redis://127.0.0.1:1"
CLIENT = ("10.0.0.1", 5000)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("r")) as url:
        yield url


@asynccontextmanager
async def limiter(url: str, shop: str = "s", clock: Callable[[], float] = time.time) -> AsyncIterator[RateLimiter]:
    one = RateLimiter(url, shop=shop, timeout_ms=5_000, retry_ms=60_000, clock=clock)
    yield one
    await one.close()


def key(role: Role, limit: str | None = None) -> Key:
    return Key(name="k", role=role, sha256="0" * 64, created_at=datetime(2026, 11, 26, tzinfo=UTC), limit=limit)


async def passed(one: RateLimiter, rate: str, who: str, n: int) -> int:
    """How many of n requests pass."""
    return sum([await one.wait(parse(rate), who) == 0 for _ in range(n)])


@pytest.mark.parametrize("rate", ["1/hour", "7/hour", "350/hour", "1000/hour"])
def test_as_many_pass_as_a_limit_says(redis_url: str, rate: str) -> None:
    amount = parse(rate).amount

    async def count() -> int:
        async with limiter(redis_url) as one:
            return await passed(one, rate, f"a{rate}", amount + 50)

    assert asyncio.run(count()) == amount


def test_requests_at_the_same_time_waste_nothing(redis_url: str) -> None:
    async def count() -> int:
        async with limiter(redis_url) as one:
            rate, found = parse("1000/hour"), 0
            for _ in range(30):
                found += (await asyncio.gather(*(one.wait(rate, "j") for _ in range(50)))).count(0)
            return found

    assert asyncio.run(count()) == 1_000


def test_workers_share_a_limit(redis_url: str) -> None:
    async def both() -> list[int]:
        async with limiter(redis_url) as one, limiter(redis_url) as other:
            return [await passed(one, "500/hour", "b", 300), await passed(other, "500/hour", "b", 300)]

    assert asyncio.run(both()) == [
        300,
        200,
    ]  # the first holds none back: 300 is a multiple of the 5 that it takes at once


def test_limits_are_counted_for_each_asker_and_shop_by_itself(redis_url: str) -> None:
    async def several() -> list[int]:
        async with limiter(redis_url) as one, limiter(redis_url, shop="t") as other:
            return [await passed(who, "3/hour", name, 5) for who, name in ((one, "c"), (one, "d"), (other, "c"))]

    assert asyncio.run(several()) == [3, 3, 3]


def test_who_is_refused_is_told_when_to_come_back_and_passes_then(redis_url: str) -> None:
    async def refused() -> tuple[float, float]:
        async with limiter(redis_url) as one:
            await passed(one, "2/second", "e", 2)
            wait = await one.wait(parse("2/second"), "e")
            await asyncio.sleep(wait + 1)  # the window before counts too
            return wait, await one.wait(parse("2/second"), "e")

    wait, after = asyncio.run(refused())
    assert 0 < wait <= 2 and after == 0


def test_a_refused_asker_is_refused_without_asking_redis(tmp_path: Path) -> None:
    async def refused() -> float:
        with running_redis(tmp_path) as url:
            async with limiter(url) as one:
                assert await passed(one, "2/hour", "f", 3) == 2
                await one.close()
        return await one.wait(parse("2/hour"), "f")  # counting by itself it would let this one pass

    assert asyncio.run(refused()) > 0


def test_without_redis_a_process_counts_by_itself() -> None:
    async def count() -> int:
        async with limiter(AWAY) as one:
            return await passed(one, "200/hour", "g", 300)

    assert asyncio.run(count()) == 200


def test_redis_is_asked_again_when_its_time_has_come(tmp_path: Path) -> None:
    now = [time.time()]

    async def count() -> list[int]:
        async with limiter(f"unix://{tmp_path}/redis.sock", clock=lambda: now[0]) as one:
            found = [await passed(one, "3/hour", "h", 2)]
            with running_redis(tmp_path) as url:
                found.append(await passed(one, "3/hour", "h", 5))  # not yet asked
                now[0] += 60.0
                found.append(await passed(one, "3/hour", "i", 5))
                async with limiter(url) as other:
                    found.append(await passed(other, "3/hour", "i", 5))
        return found

    assert asyncio.run(count()) == [2, 1, 3, 0]


def of(settings: Settings, role: Role | None, *, is_open: bool = False, limit: str | None = None) -> int:
    """How many of 1,000 requests pass."""

    async def count() -> int:
        asker = None if role is None else key(role, limit)
        async with limiter(AWAY) as one:
            rates = RateLimits(one, settings)
            return sum([not await rates.wait(asker, CLIENT, is_open=is_open) for _ in range(1_000)])

    return asyncio.run(count())


def test_an_address_is_limited_where_everybody_could_ask() -> None:
    assert of(Settings(), None) == of(Settings(), Role.WIDGET) == 600
    assert of(Settings(), Role.SERVER) == of(Settings(), Role.ADMIN) == 1_000
    assert of(Settings(), None, is_open=True) == 1_000


def test_an_address_is_limited_as_set() -> None:
    settings = Settings(address_limit="5/minute")
    assert of(settings, Role.WIDGET) == of(settings, None, is_open=True) == 5
    assert of(Settings(address_limit="off"), Role.WIDGET) == 1_000


def test_a_key_has_a_limit_of_its_own_beside_its_addresses() -> None:
    assert of(Settings(), Role.SERVER, limit="40/minute") == 40
    assert of(Settings(), Role.WIDGET, limit="40/minute") == 40
    assert of(Settings(address_limit="30/minute"), Role.WIDGET, limit="40/minute") == 30


@pytest.mark.parametrize("rate", ["", "often", "5", "5/fortnight", "-1/minute"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(ValidationError, match="600/minute"):
        Settings(address_limit=rate)


def test_one_connection_to_the_internet_is_one_address() -> None:
    assert connection("10.1.2.3") == "10.1.2.3" == connection("::ffff:10.1.2.3")
    assert connection("2001:db8::1") == connection("2001:db8::ffff:1") == "2001:db8::/64"
    assert connection("2001:db8:0:1::1") == "2001:db8:0:1::/64"
    assert connection("fe80::1%eth0") == "fe80::/64"
    assert connection("unix") == "unix"
