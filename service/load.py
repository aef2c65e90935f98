"""How much an answer may cost right now, by how long requests queue.

The work is synchronous, so requests queue where the event loop gets to them late. How late a timer fires says how long that is: a
standing queue, as in CoDel (Nichols and Jacobson, ACM Queue 2012), is one in which the *least* lag of an interval is above the target; a
burst that is gone within the interval is none. What follows is a brownout (Klein et al., ICSE 2014): a growing share of requests is
answered from a cheaper rung, all of them before the first is refused. It grows fast and falls slowly, as in DAGOR (Zhou et al., SoCC 2018).

Where even the cheapest answers come too slowly, or the level has not grown enough yet, whoever has waited too long in a standing queue
is refused, so that the others are answered in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from service.ladder import Rung

BEAT_SECONDS: Final = 0.01
INTERVAL_SECONDS: Final = 0.1
"""A queue that stands for so long is not a burst."""
FIRST_STEP: Final = 0.1
"""Of the level, when a queue begins to stand; each further interval in which it does takes twice the step of the one before, until all
answers are as cheap as they can be, and this step again from there on: refusing many is only better than refusing few if it has to be."""
RELIEF: Final = 0.02
"""Of the level, for each interval without a standing queue; `FIRST_STEP` while some are refused."""
CHEAPER: Final = 1.0
"""From this level on nobody is answered by the costly parts of a model."""
POPULAR: Final = 2.0
"""From here on everybody is answered from popularity, and some are refused."""
REFUSE: Final = 3.0
"""Everybody is."""
WAITING: Final = 0.8
"""Of a request's time, at most, goes into waiting for others."""
IMPATIENCE: Final = 2.0
"""A single request that has queued for so many times the target is answered from popularity, whatever the level."""
TOO_LATE: Final = 4.0
"""One that has queued for so many times the target is refused, where the queue stands or the level is `CHEAPER`: while it was answered,
others would become as late."""


class Load:
    """What requests may cost, and how many may be inside."""

    def __init__(self, clock: Callable[[], float], *, queue_seconds: float, most_inside: int) -> None:
        """`clock` is steady and gives seconds; a queue of more than `queue_seconds` is too long."""
        self._clock = clock
        self.queue_seconds = queue_seconds
        self._most_inside = most_inside
        self.inside = 0
        """Requests that have come in and are not answered yet."""
        self.level = 0.0
        """From 0, at ease, to `REFUSE`; between two whole numbers the share of requests that are treated as the higher one says."""
        self._lag = 0.0
        self._stands = False
        self._step = FIRST_STEP
        self._least = float("inf")
        self._since = clock()
        self._carry = 0.0

    def note(self, lag: float) -> None:
        """The loop came so many seconds late to something that was due."""
        self._lag, self._least = lag, min(self._least, lag)
        now = self._clock()
        if now - self._since < INTERVAL_SECONDS:
            return
        self._stands = self._least > self.queue_seconds
        if self._stands:
            self._harden()
        else:
            self._relax()
        self._least, self._since = float("inf"), now

    def _harden(self) -> None:
        if self.level < POPULAR:
            self.level = min(POPULAR, self.level + self._step)
            self._step *= 2
        else:
            self.level = min(REFUSE, self.level + FIRST_STEP)

    def _relax(self) -> None:
        relief = FIRST_STEP if self.level > POPULAR else RELIEF
        self.level = max(0.0, self.level - relief)
        self._step = FIRST_STEP

    def enter(self, waited: float = 0.0) -> Rung | None:
        """The best rung for a request that was read `waited` seconds ago, to be followed by `leave`; None where it is refused.

        The second half of the places inside is for answers from popularity: that there is a queue is known before it shows as lag.
        """
        level = self._whole_level() if self.level else 0
        if self.inside >= self._most_inside or level >= REFUSE:
            return None
        # Before it was read it waited as long as the loop was late, at most.
        if (self._stands or self.level >= CHEAPER) and self._lag + waited > TOO_LATE * self.queue_seconds:
            return None
        self.inside += 1
        if 2 * self.inside > self._most_inside + 1:
            return Rung.POPULAR
        return (Rung.FULL, Rung.REMEMBERED, Rung.POPULAR)[level]

    def leave(self) -> None:
        """A request is answered."""
        self.inside -= 1

    def _whole_level(self) -> int:
        """The level, rounded up as often as its fraction says."""
        whole = int(self.level)
        self._carry += self.level - whole
        if self._carry >= 1.0:
            self._carry -= 1.0
            whole += 1
        return whole

    async def watch(self) -> None:
        """Measure for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self.note(loop.time() - due)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one request may cost: handed down with it, to whatever works or waits for it."""

    clock: Callable[[], float]
    """Steady, in seconds."""
    rung: Rung
    """The best that the load allowed when it came in."""
    since: float
    """When that was."""
    seconds: float
    """In which it must be answered."""
    patience: float
    """Seconds after which it has queued too long for anything but the last rung."""

    @property
    def to_wait(self) -> float:
        """Seconds in which to hear from others: what is left of its patience, or of its time but for a bit to rank in."""
        return self.since + min(self.patience, self.seconds * WAITING) - self.clock()

    def best(self, cost: Callable[[Rung], float]) -> Rung:
        """The best rung now; `cost` says how many seconds one has to be given."""
        age = self.clock() - self.since
        left = self.seconds - age
        if self.rung is Rung.POPULAR or age > self.patience or left < cost(Rung.SIMPLE):
            return Rung.POPULAR
        return max(self.rung, Rung.REMEMBERED) if left < cost(Rung.FULL) else self.rung


AT_EASE: Final = Allowance(lambda: 0.0, Rung.FULL, 0.0, float("inf"), float("inf"))
"""Of a request that nobody limits."""
ALLOWANCE: Final[ContextVar[Allowance]] = ContextVar("allowance", default=AT_EASE)
