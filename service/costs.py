"""How long answers take, by surface and rung: what a deadline has to leave for one."""

from __future__ import annotations

from typing import Final

from recsys.events import Surface
from service.ladder import Rung

WEIGHT: Final = 0.1
"""Of the latest answer in the running mean."""
FORGOTTEN: Final = 0.02
"""Of what is known of a better rung, with each answer from a worse one: else one slow moment would be held against it for ever."""
MARGIN: Final = 2.0
"""An answer may take so many times the mean."""


class Costs:
    """Running means of seconds; nothing is known to cost nothing."""

    def __init__(self) -> None:
        self._means: dict[tuple[Surface, Rung], float] = {}

    def note(self, surface: Surface, rung: Rung, seconds: float) -> None:
        """An answer took so long."""
        key = surface, rung
        mean = self._means.get(key, seconds)
        self._means[key] = mean + WEIGHT * (seconds - mean)
        for better in range(rung):
            if (surface, better) in self._means:
                self._means[surface, Rung(better)] *= 1 - FORGOTTEN

    def of(self, surface: Surface, rung: Rung) -> float:
        """Seconds that have to be left for an answer."""
        return MARGIN * self._means.get((surface, rung), 0.0)
