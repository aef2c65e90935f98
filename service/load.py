"""How much an answer may cost right now, by how long requests queue.

The work is synchronous, so requests queue where the event loop gets to them late. How late a timer fires says how long that is: a
standing queue, as in CoDel (Nichols and Jacobson, ACM Queue 2012), is one in which the *least* lag of an interval is above the target; a
burst that is gone within the interval is none. What follows is a brownout (Klein et al., ICSE 2014): a growing share of requests is
answered from a cheaper rung. It grows fast and falls slowly, as in DAGOR (Zhou et al., SoCC 2018).

The level alone drains a queue slowly, and falls between two long turns of the loop, while each makes the next one long. So while the
level is above 0 and the loop is busy with its own work, each request that comes in is also judged by how long it has waited itself: after
a while it is answered from popularity, and the level rises while there are such requests. Too late, and one of many, it is refused, so
that those behind it are answered in time: a few are answered from popularity in the time that refusing them would save. A loop that is
late and has not worked was kept from it, by others on its core or a quota: there only who is hopelessly late is refused, since what came
in a pause may be answered in the next moment of work.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from service.ladder import Rung

BEAT_SECONDS: Final = 0.01
INTERVAL_SECONDS: Final = 0.1
"""A queue that stands for so long is not a burst."""
FIRST_STEP: Final = 0.1
"""Of the level, when a queue begins to stand; each further interval in which it does takes twice the step of the one before."""
RELIEF: Final = 0.02
"""Of the level, for each interval without a queue."""
BUSY: Final = 0.5
"""The loop's share of a core, in an interval, from which on its lateness is its own doing."""
POPULAR: Final = 2.0
"""The highest level: everybody is answered from popularity. From 1 on nobody is answered by the costly parts of a model."""
WAITING: Final = 0.8
"""Of a request's time, at most, goes into waiting for others."""
IMPATIENCE: Final = 2.0
"""A request that has waited for so many times the target when its turn comes is answered from popularity, whatever the level."""
TOO_LATE: Final = 2.25
"""One that has waited for so many times the target as it comes in is refused, under a level above 0, unless no more than `FEW` wait with
it."""
HOPELESS: Final = 10.0
"""The same where the loop was kept from its work."""
FEW: Final = 30.0
"""Requests that are answered from popularity in about the target, where a core is free for it."""


class Load:
    """What requests may cost, and how many may be inside."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        queue_seconds: float,
        most_inside: int,
        worked: Callable[[], float] | None = None,
    ) -> None:
        """`clock` is steady and gives seconds; a queue of more than `queue_seconds` is too long. `worked` gives the seconds of a core that
        the loop's thread has had, asked there; by default what the system says."""
        self._clock = clock
        self._worked = worked or _worked
        self.queue_seconds = queue_seconds
        self._most_inside = most_inside
        self.inside = 0
        """Requests that have come in and are not answered yet."""
        self.level = 0.0
        """From 0, at ease, to `POPULAR`; between two whole numbers the share of requests that are treated as the higher one says."""
        self._step = FIRST_STEP
        self._carry = 0.0
        self._lag = 0.0
        """The last one."""
        self._least = float("inf")
        """Of this interval's lags."""
        self._impatient = False
        """Whether anybody has come in who had waited for too long, in this interval."""
        self._came = 0
        """Requests, in this interval."""
        self._rate = 0.0
        """Requests a second, in the last."""
        self._since = clock()
        self._worked_before = self._worked()
        self._is_busy = False
        """Whether the loop worked for at least a share `BUSY` of the last interval."""

    def note(self, lag: float) -> None:
        """The loop came so many seconds late to something that was due."""
        self._lag, self._least = lag, min(self._least, lag)
        now = self._clock()
        if now - self._since < INTERVAL_SECONDS:
            return
        seconds, worked = now - self._since, self._worked()
        self._is_busy = worked - self._worked_before >= BUSY * seconds
        self._rate = self._came / seconds
        if self._least > self.queue_seconds:
            self._raise(self._step)
            self._step = min(POPULAR, 2 * self._step)
        elif not (self._impatient and self._is_busy):
            self.level = max(0.0, self.level - RELIEF)
            self._step = FIRST_STEP
        elif self.level > 0:
            self._raise(FIRST_STEP)
        self._least, self._impatient, self._came, self._since, self._worked_before = float("inf"), False, 0, now, worked

    def _raise(self, step: float) -> None:
        self.level = min(POPULAR, self.level + step)

    def enter(self, waited: float = 0.0) -> Rung | None:
        """The best rung for a request that was read `waited` seconds ago, to be followed by `leave`; None where it is refused.

        The second half of the places inside is for answers from popularity: that there is a queue is known before it shows as lag.
        """
        level = self._whole_level() if self.level else 0
        self._came += 1
        # Before it was read it waited as long as the loop was late, at most.
        waited += self._lag
        impatient = waited > IMPATIENCE * self.queue_seconds
        self._impatient |= impatient
        overloaded = self.level > 0 and self._is_busy
        too_late = self.level > 0 and waited > (TOO_LATE if self._is_busy else HOPELESS) * self.queue_seconds
        if self.inside >= self._most_inside or (too_late and self._came_within(waited) > FEW):
            return None
        self.inside += 1
        if 2 * self.inside > self._most_inside + 1 or (overloaded and impatient):
            return Rung.POPULAR
        return (Rung.FULL, Rung.REMEMBERED, Rung.POPULAR)[level]

    def _came_within(self, seconds: float) -> float:
        """About how many requests came in the last seconds: as in the last interval, or in this one if there were more."""
        now_rate = self._came / max(self._clock() - self._since, INTERVAL_SECONDS)
        return max(self._rate, now_rate) * seconds

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


def _worked() -> float:
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one request may cost: handed down with it, to whatever works or waits for it."""

    clock: Callable[[], float]
    """Steady, in seconds."""
    rung: Rung
    """The best that the load allowed when it came in."""
    since: float
    """When its head was read."""
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
