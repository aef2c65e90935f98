"""Between browser and service: events come late, twice, in the wrong order or without their ids, at given rates and by seed."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.simulation.constants import Mess
from recsys.simulation.shops import Event, Shop

RENDER: Final = "render"
BATCH: Final = 500
SECONDS_PER_HOUR: Final = 3_600


class Courier:
    """Brings events to a shop, messily."""

    def __init__(self, shop: Shop, mess: Mess, seed: int) -> None:
        self._shop = shop
        self._mess = mess
        self._rng = np.random.default_rng((seed, 1))
        self._rates = np.array([mess.late, mess.duplicate, mess.missing_id])
        self._waiting: list[tuple[float, int, Event]] = []
        self._number = itertools.count()
        self.counts: Counter[str] = Counter()
        """How many `events` in how many `batches`; how many were `late`, sent in `duplicate`, `bare` of an id, batches `reversed`; how many got which verdict."""

    def send(self, events: Sequence[Event], at: float) -> None:
        """Bring what is due by now, then a batch, but for those of it that come late."""
        if not events and not self._waiting:
            return
        batch = self._due(at)
        draws = self._rng.random((len(events) + 1, len(self._rates)))
        hit = draws[1:] < self._rates
        batch += self._muddle(events, hit, at) if hit.any() else events
        if draws[0, 0] < self._mess.out_of_order:
            self.counts["reversed"] += 1
            batch.reverse()
        self.counts["events"] += len(events)
        self.counts["batches"] += 1
        self._bring(batch, at)

    def finish(self, at: float) -> None:
        """Bring whatever still waits."""
        self._bring(self._due(np.inf), at)

    def _muddle(self, events: Sequence[Event], hit: NDArray[np.bool_], at: float) -> list[Event]:
        """What arrives at once; the rest waits. `hit`, `(n, 3)`: which are late, come twice, are bare of an id."""
        now = []
        for event, (late, twice, bare) in zip(events, hit.tolist(), strict=True):
            sent = self._without_an_id(event) if bare else event
            if late:
                heapq.heappush(self._waiting, (at + self._mess.late_hours * SECONDS_PER_HOUR, next(self._number), sent))
            now += [sent] * ((not late) + twice)
        for name, count in zip(("late", "duplicate", "bare"), hit.sum(axis=0).tolist(), strict=True):
            self.counts[name] += count
        return now

    def _due(self, at: float) -> list[Event]:
        due = []
        while self._waiting and self._waiting[0][0] <= at:
            due.append(heapq.heappop(self._waiting)[2])
        return due

    def _bring(self, events: Sequence[Event], at: float) -> None:
        for start in range(0, len(events), BATCH):
            for verdict, count in self._shop.take(events[start : start + BATCH], at).items():
                self.counts[verdict] += count

    def _without_an_id(self, event: Event) -> Event:
        # A render without its answer's id would tell nothing at all.
        has_answer = "request_id" in event and event["type"] != RENDER
        lost = "request_id" if has_answer and self._rng.random() < 0.5 else "event_id"
        return {name: value for name, value in event.items() if name != lost}
