"""`service.upkeep`: what runs in the background ends."""

from __future__ import annotations

import asyncio

import pytest

from service import upkeep
from service.upkeep import ended


async def forgetful() -> None:
    """Works on after the cancellation that comes as `asyncio.wait_for` is done, as Python 3.11 has it, whichever this is."""
    try:
        await asyncio.sleep(60.0)
    except asyncio.CancelledError:
        await asyncio.sleep(60.0)


async def failing() -> None:
    raise ValueError("no good")


def test_who_forgets_a_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CANCEL_SECONDS", 0.01)

    async def work() -> None:
        tasks = [asyncio.create_task(each()) for each in (forgetful, failing, forgetful)]
        await asyncio.sleep(0)
        await asyncio.wait_for(ended(tasks), 30.0)
        assert [task.cancelled() for task in tasks] == [True, False, True]
        await ended([])

    asyncio.run(work())
