"""`service.session_store` on a real Redis that is paused, killed, full, or has another's data in it."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from interlock import State

from recsys.events import EventType
from service.session_store import LiveEvent, SessionStore, StoreUnavailableError
from tests.redis_server import start_redis

NOW = 1_790_000_000.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start_redis(tmp_path)
    yield process
    process.kill()
    process.wait()


@asynccontextmanager
async def opened(folder: Path, *, timeout_ms: int = 200, retry_ms: int = 100) -> AsyncIterator[SessionStore]:
    url = f"unix://{folder / 'redis.sock'}"
    store = SessionStore(url, shop="s", timeout_ms=timeout_ms, retry_ms=retry_ms, history_events=10, history_days=90)
    try:
        yield store
    finally:
        await store.close()


def view(number: int) -> LiveEvent:
    return LiveEvent(f"e{number}", EventType.VIEW, f"i{number}", "u", None, NOW + number)


async def n_events(store: SessionStore) -> int:
    return len((await store.histories("u", None))[0])


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(600):
        if await condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("did not happen in time")


async def answers(store: SessionStore) -> bool:
    try:
        await store.histories("u", None)
    except StoreUnavailableError:
        return False
    return True


def test_a_paused_redis_is_soon_left_alone_and_asked_again_by_one_call(
    tmp_path: Path, server: subprocess.Popen[bytes]
) -> None:
    async def work() -> None:
        async with opened(tmp_path) as store:
            await store.append([view(1)])
            server.send_signal(signal.SIGSTOP)
            failures = 0
            while store._breaker.state is State.CLOSED:
                assert not await answers(store)
                failures += 1
            assert failures <= 5
            with pytest.raises(StoreUnavailableError, match="has just failed"):
                await store.histories("u", None)
            await asyncio.sleep(0.15)  # longer than retry_ms: one call tries, the others do not wait for it
            asked = [asyncio.create_task(store.histories("u", None)) for _ in range(2)]
            await asyncio.sleep(0.05)
            with pytest.raises(StoreUnavailableError, match="has just failed"):
                await store.histories("u", None)
            await asyncio.gather(*asked, return_exceptions=True)
            server.send_signal(signal.SIGCONT)
            await eventually(lambda: answers(store))
            assert await n_events(store) == 1

    asyncio.run(work())


def test_events_that_a_paused_redis_does_not_take_leave_no_connection_open(
    tmp_path: Path, server: subprocess.Popen[bytes]
) -> None:
    async def work() -> None:
        async with opened(tmp_path, timeout_ms=50) as store:
            await eventually(lambda: answers(store))
            server.send_signal(signal.SIGSTOP)
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                await store.append([view(1)])
                gc.collect()
            assert store.behind_since == NOW + 1
            assert not [str(warning.message) for warning in found]
            server.send_signal(signal.SIGCONT)

    asyncio.run(work())


def test_a_restarted_redis_is_found_again(tmp_path: Path, server: subprocess.Popen[bytes]) -> None:
    async def work() -> None:
        async with opened(tmp_path) as store:
            await store.append([view(1)])
            server.kill()
            server.wait()
            assert not await answers(store)
            await store.append([view(2)])
            assert store.behind_since == NOW + 2
            again = start_redis(tmp_path)
            try:
                await eventually(lambda: answers(store))
                assert await n_events(store) == 0  # healing fills it from the database
            finally:
                again.kill()
                again.wait()

    asyncio.run(work())


@pytest.mark.usefixtures("server")
def test_a_redis_that_refuses_writes_is_still_read(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path, timeout_ms=5_000) as store:
            await store.append([view(1)])
            await store._client.config_set("maxmemory", 1)
            for number in range(2, 12):
                await store.append([view(number)])
            assert store.behind_since == NOW + 2
            assert store._breaker.state is State.CLOSED
            assert await n_events(store) == 1

    asyncio.run(work())


@pytest.mark.usefixtures("server")
def test_another_ones_data_under_our_keys_costs_no_answer(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path, timeout_ms=5_000) as store:
            await store._client.lpush("s:u:u", "not a history")
            await store._client.set("s:trend:1", "not a set")
            assert await n_events(store) == 0
            with pytest.raises(StoreUnavailableError):
                await store.trend(3_600.0, 10)
            assert await answers(store)

    asyncio.run(work())


@pytest.mark.usefixtures("server")
def test_an_answer_that_came_while_the_process_was_busy_is_not_late(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path, timeout_ms=300) as store:
            await store.append([view(1)])
            for _ in range(3):
                asked = asyncio.create_task(store.histories("u", None))
                await asyncio.sleep(0)  # the task runs,
                await asyncio.sleep(0)  # what is wanted is gathered,
                await asyncio.sleep(0)  # and sent
                time.sleep(0.6)  # as the work of other requests would
                assert len((await asked)[0]) == 1

    asyncio.run(work())


@pytest.mark.usefixtures("server")
def test_a_request_waits_no_longer_than_it_has_time(tmp_path: Path, server: subprocess.Popen[bytes]) -> None:
    async def work() -> None:
        async with opened(tmp_path, timeout_ms=60_000) as store:
            server.send_signal(signal.SIGSTOP)
            with pytest.raises(StoreUnavailableError, match="no time left"):
                await store.histories("u", None, seconds=0.01)
            server.send_signal(signal.SIGCONT)
            await eventually(lambda: answers(store))

    asyncio.run(work())
