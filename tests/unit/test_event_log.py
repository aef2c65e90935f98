"""`service.event_log`: what waits together is committed together, and what fails fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Table, event, text

from recsys.store.database import database_url, opened, writing
from recsys.store.migrate import upgrade
from recsys.store.reading import count, rows_between, watermark
from recsys.store.schema import EVENTS, EXPOSURES, MERGES, RENDERS, VERDICTS
from service import event_log
from service.event_log import Batch, EventLog, EventLogError, LateError, NoDatabaseError, Stored

NOON = datetime(2026, 11, 25, 12)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with opened(database_url(tmp_path)) as found:
        upgrade(found)
        yield found


def run(engine: Engine, work: Callable[[EventLog], Awaitable[Any]], lost: list[int] | None = None) -> Any:
    """Do something with a log that is started and stopped."""
    counted = [] if lost is None else lost

    async def main() -> Any:
        log = EventLog(engine, on_lost=counted.append, on_unmatched=counted.append)
        await log.start()
        try:
            return await work(log)
        finally:
            await log.stop()

    return asyncio.run(main())


def row(event_id: str | None, **fields: Any) -> dict[str, Any]:
    names = ("user_id", "price_cents", "order_id", "request_id", "surface", "region")
    given = {"event_id": event_id, "type": "view", "item_id": "i", "session_id": "s", "quantity": 1, "origin": "api"}
    times = dict.fromkeys(("occurred_at", "received_at"), NOON)
    return {**dict.fromkeys(names), **given, **times, **fields}


def exposure(request_id: str, **fields: Any) -> dict[str, Any]:
    names = ("user_id", "session_id", "page_id", "widget", "rules", "moved_by", "shown_before", "phase")
    served = {"surface": "home", "served_by": "p", "model_version": "v", "degraded": False}
    whole = {"request_id": request_id, "occurred_at": 1_790_000_000.5, "arms": {}, "items": [], "request": {"k": 1}}
    return {**dict.fromkeys(names), **served, **whole, **fields}


def test_those_who_wait_share_a_transaction_and_each_learns_its_own(engine: Engine) -> None:
    commits: list[object] = []
    event.listen(engine, "commit", commits.append)

    async def work(log: EventLog) -> list[Stored]:
        batches = [Batch([row(f"e{n}"), row("shared")]) for n in range(50)]
        return list(await asyncio.gather(*(log.append(batch) for batch in batches)))

    stored = run(engine, work)
    assert [one.fresh for one in stored] == [[True, True]] + [[True, False]] * 49
    assert [[known["event_id"] for known in one.known] for one in stored[1:]] == [["shared"]] * 49
    assert count(engine, EVENTS) == 51
    assert len(commits) < 10 + 49 + 1  # a transaction of its own for what each finds known, few for all that is written


def test_a_batch_that_cannot_be_held_fails_alone(engine: Engine) -> None:
    async def work(log: EventLog) -> list[Any]:
        batches = [Batch([row("a")]), Batch([row(None)]), Batch([row("b")])]
        return list(await asyncio.gather(*(log.append(batch) for batch in batches), return_exceptions=True))

    first, second, third = run(engine, work)
    assert first.fresh == third.fresh == [True] and isinstance(second, EventLogError)


def test_without_the_database_events_are_refused_and_exposures_wait(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(event_log, "MAX_BUFFERED", 3)
    lost: list[int] = []

    async def work(log: EventLog) -> None:
        with writing(engine) as connection:
            for table in ("events", "exposures", "merges", "verdicts"):
                connection.execute(text(f"ALTER TABLE {table} RENAME TO away_{table}"))
        for n in range(5):
            log.expose(exposure(f"r{n}"))
        log.login("s", "u", 1_790_000_000.0)
        with pytest.raises(EventLogError):
            await log.append(Batch([row("a")]))
        await asyncio.sleep(0.2)
        with writing(engine) as connection:
            for table in ("events", "exposures", "merges", "verdicts"):
                connection.execute(text(f"ALTER TABLE away_{table} RENAME TO {table}"))
        assert (await log.append(Batch([row("a")]))).fresh == [True]

    run(engine, work, lost)
    assert count(engine, EXPOSURES) == 3 and sum(lost) == 2
    assert count(engine, MERGES) == 1
    with pytest.raises(EventLogError, match="stopping"):
        run(engine, lambda log: _append_after_stop(log))


async def _append_after_stop(log: EventLog) -> None:
    await log.stop()
    await log.append(Batch([row("late")]))


def test_an_exposure_that_cannot_be_held_takes_no_other_with_it(engine: Engine) -> None:
    lost: list[int] = []

    async def work(log: EventLog) -> None:
        for one in (exposure("a"), exposure("b", surface=None), exposure("c", user_id="\0")):
            log.expose(one)

    run(engine, work, lost)
    found = [one for rows in rows_between(engine, EXPOSURES, 0, watermark(engine, EXPOSURES)) for one in rows]
    assert [(one["request_id"], one["user_id"]) for one in found] == [("a", None), ("c", "\ufffd")]
    assert found[0]["occurred_at"] == datetime(2026, 9, 21, 14, 13, 20, 500_000)
    assert sum(lost) == 1


def test_verdicts_are_a_sample_with_the_event_cut_short(engine: Engine) -> None:
    async def work(log: EventLog) -> None:
        for n in range(1_000):
            log.judged(1_790_000_000.0 + n, f"e{n}", "accepted", None, {"n": n, "text": "x" * 3_000})
        log.judged(1_790_000_000.0, None, "rejected", "no \0", "not an event")

    run(engine, work)
    found = [one for rows in rows_between(engine, VERDICTS, 0, watermark(engine, VERDICTS)) for one in rows]
    assert len(found) == event_log.VERDICTS_A_FLUSH + 1
    assert found[-1]["event_id"] == "e999" and {len(one["body"]) for one in found[1:]} == {event_log.BODY}
    assert (found[0]["reason"], found[0]["body"]) == ("no \ufffd", "not an event")


def test_what_cannot_be_written_as_json_stops_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "FLUSH_SECONDS", 0.01)
    nested: list[Any] = []
    for _ in range(400):
        nested = [nested]

    async def work(log: EventLog) -> None:
        log.judged(1_790_000_000.0, None, "rejected", "no text", {"item_id": nested})
        log.expose(exposure("with it"))
        log.expose(exposure("not JSON", request={"k": nested}))
        await asyncio.sleep(0.2)
        log.expose(exposure("after it"))
        async with asyncio.timeout(5):
            while count(engine, EXPOSURES) < 2:
                await asyncio.sleep(0.01)

    lost: list[int] = []
    run(engine, work, lost)
    assert (count(engine, VERDICTS), sum(lost)) == (1, 1)


def test_an_unforeseen_fault_is_told_to_who_waits_and_ends_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(log: EventLog) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(event_log, "insert_events", lambda *_: 1 / 0)
            with pytest.raises(EventLogError, match="division"):
                await asyncio.wait_for(log.append(Batch([row("a")])), 5)
        assert (await asyncio.wait_for(log.append(Batch([row("a")])), 5)).fresh == [True]

    run(engine, work)


def test_renders_without_an_exposure_are_counted_after_a_while(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(event_log, "UNMATCHED_SECONDS", 0.1)
    counted: list[int] = []
    render = {"rendered_at": NOON, "received_at": NOON, "user_id": None, "session_id": None, "items": None}

    async def work(log: EventLog) -> None:
        log.expose(exposure("shown"))
        stored = await log.append(
            Batch(renders=[{**render, "request_id": name} for name in ("shown", "never", "shown")])
        )
        assert stored.fresh_renders == [True, True, False]
        while sum(counted) == 0:
            await asyncio.sleep(0.02)

    run(engine, work, counted)
    assert sum(counted) == 1 and count(engine, RENDERS) == 2


def test_a_locked_database_keeps_nobody_waiting_and_loses_nothing_that_was_acknowledged(engine: Engine) -> None:
    async def work() -> None:
        log = EventLog(engine, on_lost=_ignore, on_unmatched=_ignore, commit_seconds=0.3)
        await log.start()
        try:
            await log.append(Batch([row("before")]))
            with writing(engine):  # another writer, who takes long
                with pytest.raises(LateError):
                    await log.append(Batch([row("begun")]))
                with pytest.raises(NoDatabaseError, match="busy"):
                    await log.append(Batch([row("queued")]))
                log.expose(exposure("r"))
                with pytest.raises(
                    NoDatabaseError, match="just failed"
                ):  # two of the last three: nobody waits any more
                    await log.append(Batch([row("refused")]))
            while True:  # whoever sends it again is told that it is known
                try:
                    again = await log.append(Batch([row("begun")]))
                    break
                except NoDatabaseError:
                    await asyncio.sleep(0.05)
            assert (again.fresh, [known["event_id"] for known in again.known]) == ([False], ["begun"])
        finally:
            await log.stop()

    asyncio.run(work())
    assert stored(engine, EVENTS, "event_id") == ["before", "begun"]
    assert stored(engine, EXPOSURES, "request_id") == ["r"]


def test_a_full_disk_is_said_and_goes_on_when_there_is_room(engine: Engine) -> None:
    async def work(log: EventLog) -> None:
        await log.append(Batch([row("before")]))
        limit(engine, to=1)
        with pytest.raises(NoDatabaseError, match="full"):
            await log.append(Batch([row(f"e{n}", item_id="x" * 4_000) for n in range(20)]))
        log.expose(exposure("r"))
        limit(engine, to=1_000_000)
        await log.append(Batch([row("after")]))

    run(engine, work)
    assert stored(engine, EVENTS, "event_id") == ["before", "after"]
    assert stored(engine, EXPOSURES, "request_id") == ["r"]


def _ignore(n: int) -> None:
    """Counts nothing."""


def limit(engine: Engine, *, to: int) -> None:
    """SQLite's own full disk: no more pages than this, or than there are."""
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: connection.execute(f"PRAGMA max_page_count = {to}"))


def stored(engine: Engine, table: Table, column: str) -> list[Any]:
    """A column of a table, in the order in which it was written."""
    return [one[column] for rows in rows_between(engine, table, 0, watermark(engine, table)) for one in rows]
