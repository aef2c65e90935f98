"""Guardrails of a canary: what shoppers get of it beside what all others get, and its end where that is surely worse.

Errors, latency and empty answers are counted by each worker as it answers; clicks are read from the database by one of the workers. All
are ratios over independent units, answers or shoppers, so one formula compares them: the delta method's standard error, widened to an
interval that holds however often one looks (`recsys.experiments.sequential`).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from sqlalchemy import Engine

from recsys.experiments.sequential import factor, tuned_rho
from recsys.publish import GUARDRAIL, end
from service.clicks import Clicks
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger(__name__)

CANARY: Final = "canary"
CONTROL: Final = "control"
ALPHA: Final = 0.01
"""The chance that a guardrail ever breaks of a canary that is no worse, on each worker."""
_RHO: Final = tuned_rho(1_000, ALPHA)
LONGEST_MS: Final = 1_000.0
"""An answer that took longer counts as this: a single stall must not hide what is usual."""


@dataclass(slots=True)
class Sums:
    """What a ratio of sums over units and its standard error need: `sum(value) / sum(weight)`."""

    units: int = 0
    value: float = 0.0
    weight: float = 0.0
    value_value: float = 0.0
    value_weight: float = 0.0
    weight_weight: float = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """One more unit."""
        self.units += 1
        self.value += value
        self.weight += weight
        self.value_value += value * value
        self.value_weight += value * weight
        self.weight_weight += weight * weight

    @classmethod
    def of(cls, units: Iterable[tuple[float, float]]) -> Sums:
        """Of units that are known as a whole, `(value, weight)` each."""
        sums = cls()
        for value, weight in units:
            sums.add(value, weight)
        return sums

    @property
    def ratio(self) -> float:
        """NaN where there is nothing."""
        return self.value / self.weight if self.weight else math.nan

    @property
    def variance(self) -> float:
        """Of the ratio, by the delta method."""
        ratio = self.ratio
        squares = self.value_value - 2 * ratio * self.value_weight + ratio * ratio * self.weight_weight
        return max(squares, 0.0) / self.weight**2


def difference(canary: Sums, control: Sums) -> tuple[float, float, float]:
    """The canary's ratio less the control's, and the ends of its sequential interval."""
    value = canary.ratio - control.ratio
    errors = float(factor(canary.units + control.units, _RHO, ALPHA))
    half = errors * math.sqrt(canary.variance + control.variance)
    return value, value - half, value + half


@dataclass(slots=True)
class Watch:
    """What one arm's answers were like."""

    errors: Sums = field(default_factory=Sums)
    empty: Sums = field(default_factory=Sums)
    latency: Sums = field(default_factory=Sums)
    """Milliseconds."""

    def answered(self, seconds: float, *, degraded: bool, empty: bool) -> None:
        """Count an answer."""
        self.errors.add(float(degraded))
        self.empty.add(float(empty))
        self.latency.add(min(seconds * 1_000.0, LONGEST_MS))

    def failed(self) -> None:
        """Count a request without an answer."""
        self.errors.add(1.0)


class Breach(NamedTuple):
    """A guardrail that is broken."""

    guardrail: str
    words: str


def breach(canary: Watch, control: Watch, settings: Settings) -> Breach | None:
    """What of the canary's answers is surely worse than the control's, and by more than is allowed."""
    rails = (
        ("errors", canary.errors, control.errors, settings.guardrail_errors, "failed or degraded per answer"),
        ("empty", canary.empty, control.empty, settings.guardrail_empty, "empty per answer"),
        ("latency", canary.latency, control.latency, settings.guardrail_latency_ms, "ms per answer"),
    )
    for name, ours, theirs, allowed, unit in rails:
        if min(ours.units, theirs.units) < settings.guardrail_answers:
            continue
        value, low, high = difference(ours, theirs)
        if low > 0 and value > allowed:
            return Breach(name, _in_words(ours, theirs, (value, low, high), f"{unit}, allowed are {allowed:g} more"))
    return None


def click_breach(canary: Sums, control: Sums, settings: Settings) -> Breach | None:
    """The same of clicks per answer, of which a share may be lost; units are shoppers."""
    if min(canary.units, control.units) < settings.guardrail_answers:
        return None
    value, low, high = difference(canary, control)
    if high < 0 and value < -settings.guardrail_ctr * control.ratio:
        unit = f"clicks per answer, allowed are {settings.guardrail_ctr:.0%} less"
        return Breach("ctr", _in_words(canary, control, (value, low, high), unit))
    return None


def _in_words(ours: Sums, theirs: Sums, found: tuple[float, float, float], unit: str) -> str:
    value, low, high = found
    return f"{ours.ratio:.4g} for {theirs.ratio:.4g} of control ({value:+.4g} [{low:+.4g}, {high:+.4g}]) {unit}"


@dataclass(frozen=True)
class Watched:
    """A canary that is running, as its guardrails see it."""

    version: str
    experiment: str
    since: float
    """Unix time."""
    canary: Watch
    control: Watch


class Guardrail:
    """Ends the canary that breaks a guardrail: at once in this worker, and by its pointer in all."""

    def __init__(
        self,
        bundles: Path,
        engine: Engine,
        running: Callable[[], Watched | None],
        stop: Callable[[], None],
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        """`running` gives the canary of this worker, `stop` ends it in this worker."""
        self._bundles = bundles
        self._engine = engine
        self._running = running
        self._stop = stop
        self._metrics = metrics
        self._settings = settings
        self._clicks: Clicks | None = None
        self._lead: BinaryIO | None = None
        self._due: tuple[Watched, Breach] | None = None
        """What is ended in this worker alone, since its pointer could not be."""

    async def look(self) -> None:
        """At what this worker has counted."""
        if self._due is not None:
            await self._end(*self._due)
        running = self._running()
        if running is not None:
            await self._end(running, breach(running.canary, running.control, self._settings))

    async def look_at_clicks(self) -> None:
        """At the database, in one of the workers."""
        running = self._running()
        if running is None or not self._leads():
            self._clicks = None
            return
        if self._clicks is None or self._clicks.experiment != running.experiment:
            self._clicks = Clicks(running.experiment, running.since)
        await asyncio.to_thread(self._clicks.read_on, self._engine)
        canary, control = (Sums.of(self._clicks.of(arm)) for arm in (CANARY, CONTROL))
        await self._end(running, click_breach(canary, control, self._settings))

    async def _end(self, running: Watched, found: Breach | None) -> None:
        if found is None:
            return
        self._stop()
        self._due = running, found
        reason = f"{found.guardrail}: {found.words}"
        ended = await asyncio.to_thread(
            end, self._bundles, "canary", reason=reason, by=GUARDRAIL, version=running.version
        )
        self._due = None
        if ended is not None:  # else another worker, or a person, came first
            self._metrics.withdrawn(found.guardrail)
            logger.error("canary %s is withdrawn, %s", running.version, reason)

    def close(self) -> None:
        """Let another worker read the clicks."""
        if self._lead is not None:
            self._lead.close()
            self._lead = None

    def _leads(self) -> bool:
        """Whether this is the worker that reads clicks: the first that asks, until it ends."""
        if self._lead is None:
            file = (self._bundles / ".guardrail").open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._lead = file
        return True
