"""What an answer is, and what it is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from recsys.ranking import EMPTY_HISTORY, History, ItemArray, Ranking
from recsys.rules.engine import Engine, Outcomes
from service.arms import Line
from service.ladder import Rung
from service.session_store import NO_RECORDS, Records


@dataclass(frozen=True, slots=True)
class Shopper:
    """What is known of who asks."""

    history: History = EMPTY_HISTORY
    session_items: ItemArray = field(default_factory=lambda: np.empty(0, dtype=np.int32))


@dataclass(frozen=True, slots=True)
class Ruling:
    """The rules for one answer, and what they may read."""

    engine: Engine
    at: float
    """Unix time."""
    history: History = EMPTY_HISTORY
    """Of the shopper, also on surfaces whose models do not read it."""
    history_read: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer before it is written down."""

    ranking: Ranking
    served_by: str
    degraded: bool
    warnings: tuple[str, ...]
    rung: Rung = Rung.FULL
    rules: str | None = None
    """Version of the rules that it obeys."""
    moved_by: tuple[tuple[str, ...], ...] = ()
    """For each item the rules that moved it; empty where none moved any."""
    outcomes: Outcomes = field(default_factory=dict)
    propensity: float | None = None
    """The chance of each item at its place, given the arm: 1 of a model that always answers alike, None where a rule moved any."""
    teams: tuple[str, ...] = ()
    """Of an interleaved answer for each item the version of the bundle that put it there, empty where none did alone."""
    seed: int = 0
    """Of what is random in it."""
    said: Ranking | None = None
    """What the model said before rules and others had their part in it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and what it was made from."""

    line: Line
    shopper: Shopper | None
    at: float
    answer: Answer
    body: bytes


@dataclass(frozen=True, slots=True)
class Spot:
    """Where on a page an answer stands."""

    page_id: str
    widget: str
    shown: tuple[str, ...]
    """Ids of the items that the widgets before it show."""


NO_PAGE: Final = Spot("", "", ())
"""Of an answer that stands alone."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What Redis holds of who asks."""

    user: Records
    session: Records


NOT_READ: Final = Recorded(NO_RECORDS, NO_RECORDS)
"""Where no answer depends on it."""
