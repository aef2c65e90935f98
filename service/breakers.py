"""Circuit breakers: who fails again and again is left alone for a while, then one call tries it (Nygard, Release It!, 2007)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from interlock import CircuitBreaker, Config, CoreEventListener, State

logger = logging.getLogger(__name__)


def breaker(name: str, *, least: int, retry_seconds: float, is_away: Callable[[Exception], bool]) -> CircuitBreaker:
    """It opens when half of the last ten calls have failed, at least `least`, and lets one try after `retry_seconds`.

    `is_away` says which errors mean that the other one is away; any other error is an answer.
    """
    config = Config(
        window_size=10,
        minimum_number_of_calls=least,
        permitted_calls_in_half_open=1,
        wait_duration_in_open=retry_seconds,
    )
    return CircuitBreaker(name=name, config=config, classifier=_Classifier(is_away), listener=_Word(retry_seconds))


class _Classifier:
    def __init__(self, is_away: Callable[[Exception], bool]) -> None:
        self._is_away = is_away

    def is_failure(self, *, result: object, exception: Exception | None) -> bool:  # noqa: ARG002
        return exception is not None and self._is_away(exception)


class _Word(CoreEventListener):
    """Says in the log when somebody is left alone, and when they are back; not what every call says."""

    def __init__(self, retry_seconds: float) -> None:
        self._retry = retry_seconds

    def on_state_change(self, *, name: str, old: State, new: State) -> None:
        if new is State.OPEN and old is State.CLOSED:
            logger.warning("the %s does not answer: it is asked again every %.1f s", name, self._retry)
        if new is State.CLOSED:
            logger.info("the %s answers again", name)
