"""Answers and clicks of each shopper in an experiment, read from the database from where the last look ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Engine

from recsys.store.clicks import answers_since, clicked_answers
from recsys.store.reading import watermark
from recsys.store.schema import EVENTS, EXPOSURES

Unit = tuple[str, str]
"""Arm and unit."""


class Clicks:
    """Of one experiment since it began. A degraded answer counts for no arm."""

    def __init__(self, experiment: str, since: float) -> None:
        self.experiment: Final = experiment
        self._since = datetime.fromtimestamp(since, UTC).replace(tzinfo=None)
        self._answers: dict[Unit, int] = defaultdict(int)
        self._clicks: dict[Unit, int] = defaultdict(int)
        self._exposures_read = self._events_read = 0

    def read_on(self, engine: Engine) -> None:
        """Take in what has come since. Off the event loop: it waits for the database."""
        events, exposures = watermark(engine, EVENTS), watermark(engine, EXPOSURES)
        for arms in answers_since(engine, self._since, self._exposures_read, exposures):
            self._count(self._answers, arms)
        for arms in clicked_answers(engine, self._since, self._events_read, events):
            self._count(self._clicks, arms)
        self._exposures_read, self._events_read = exposures, events

    def _count(self, counts: dict[Unit, int], arms: dict[str, list[str]]) -> None:
        placed = arms.get(self.experiment)
        if placed is not None:
            counts[placed[0], placed[1]] += 1

    def of(self, arm: str) -> Iterator[tuple[float, float]]:
        """Clicks and answers of each of an arm's shoppers."""
        return (
            (float(self._clicks.get(unit, 0)), float(answers))
            for unit, answers in self._answers.items()
            if unit[0] == arm
        )
