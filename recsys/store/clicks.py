"""Which arms answers and clicks belong to: what a guardrail reads while an experiment runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Engine, Select, false, select

from recsys.events import EventType
from recsys.store.database import reading
from recsys.store.reading import CHUNK
from recsys.store.schema import EVENTS, EXPOSURES

Arms = dict[str, list[str]]
"""Experiment to arm and unit."""


def answers_since(engine: Engine, moment: datetime, after: int, until: int) -> Iterator[Arms]:
    """The arms of every answer from a moment (UTC) on with `after < number <= until`; of none that was degraded."""
    wanted = select(EXPOSURES.c.number, EXPOSURES.c.arms).where(
        EXPOSURES.c.occurred_at >= moment, EXPOSURES.c.degraded == false()
    )
    return _arms(engine, wanted, EXPOSURES.c.number, after, until)


def clicked_answers(engine: Engine, moment: datetime, after: int, until: int) -> Iterator[Arms]:
    """The arms of the answer of every click received from a moment on, by the click's number, likewise."""
    wanted = (
        select(EVENTS.c.number, EXPOSURES.c.arms)
        .join(EXPOSURES, EXPOSURES.c.request_id == EVENTS.c.request_id)
        .where(
            EVENTS.c.type == EventType.CLICK.value,
            EVENTS.c.received_at >= moment,
            EXPOSURES.c.degraded == false(),
        )
    )
    return _arms(engine, wanted, EVENTS.c.number, after, until)


def _arms(engine: Engine, wanted: Select[Any], number: Column[Any], after: int, until: int) -> Iterator[Arms]:
    while after < until:
        with reading(engine) as connection:
            statement = wanted.where(number > after, number <= until).order_by(number).limit(CHUNK)
            rows = connection.execute(statement).all()
        if not rows:
            return
        for found, arms in rows:
            after = found
            yield arms
