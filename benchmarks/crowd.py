"""Shoppers who ask and tell: their requests, and what makes an answer a valid one.

Some of the best sellers are switched off before anybody asks: an answer that shows one of them is not valid, whatever it was made from.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlsplit

import numpy as np
import orjson

from benchmarks.load import Requests
from benchmarks.open_loop import BROKEN, UNANSWERED, Get, Reply
from recsys.bundle import Bundle
from recsys.ranking import Query

QUESTIONS: Final = 5_000
"""Different ones, asked in turn."""
SWITCHED_OFF: Final = 20
"""Of the best sellers, at most a quarter of the catalogue."""
NO_ANSWER: Final = "no answer"
"""What is wrong where none came in time."""
WINDOW_SECONDS: Final = 1.0
"""In which all must be normal, twice in a row, before the service is said to be as before."""
TELLERS: Final = 20
"""Users whose events are told at the same time."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request for an answer."""

    message: bytes
    k: int
    seen: frozenset[str]
    """Items that the answer may not show, since they stand on the page or in the cart."""


@dataclass(frozen=True, slots=True)
class Event:
    """A request that tells one event."""

    message: bytes
    event_id: str


@dataclass(frozen=True, slots=True)
class Crowd:
    """What a shop's visitors may ask about, and may be shown."""

    questions: Sequence[Question]
    switched_off: tuple[str, ...]
    eligible: frozenset[str]
    """Ids of what may be shown."""
    items: Sequence[str]
    """Ids that events are about."""

    @classmethod
    def of(cls, bundle: Bundle, users: Sequence[str], host: str, rng: np.random.Generator) -> Crowd:
        """A crowd of known users of a bundle."""
        catalogue = bundle.catalogue
        available = {catalogue.item_id(row) for row in np.flatnonzero(catalogue.available).tolist()}
        n_off = min(SWITCHED_OFF, catalogue.n_listed // 4)
        best = bundle.popularity.recommend(Query(), n_off, catalogue.available).items.tolist()
        off = tuple(catalogue.item_id(row) for row in best)
        paths = Requests(bundle, users, rng).mixed(QUESTIONS)
        rows = rng.choice(catalogue.n_listed, 1_000).tolist()
        return cls(
            [ask(path, host) for path in paths],
            off,
            frozenset(available.difference(off)),
            [catalogue.item_id(row) for row in rows],
        )

    def asking(self) -> Iterator[Question]:
        """Questions without end."""
        return itertools.cycle(self.questions)

    def telling(self, name: str, host: str) -> Iterator[Event]:
        """Events without end: each has an id that begins with the name, and is of a user whose id does."""
        for number in itertools.count():
            event = {
                "event_id": f"{name}-{number}",
                "type": "view",
                "user_id": user_id(name, number),
                "item_id": self.items[number % len(self.items)],
            }
            yield Event(post("/events", host, orjson.dumps(event)), event["event_id"])

    def problem(self, reply: Reply[Question]) -> str | None:
        """Why this is no valid answer; None where it is one."""
        if reply.status != 200:
            return {BROKEN: "the connection broke", UNANSWERED: NO_ANSWER}.get(reply.status, f"status {reply.status}")
        try:
            answer = orjson.loads(reply.body)
            ids = [item["item_id"] for item in answer["items"] if item["title"] and item["reason"]]
            shortfall = answer["shortfall"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            return f"no answer as documented: {error!r}"
        shown = set(ids)
        if len(ids) != len(answer["items"]):
            return "an item without a title or a reason"
        if len(ids) + shortfall != reply.asked.k or shortfall < 0:
            return f"{len(ids)} items and a shortfall of {shortfall}, not {reply.asked.k} together"
        if len(shown) != len(ids):
            return "an item twice"
        if not shown <= self.eligible or shown & reply.asked.seen:
            return "an item that may not be shown"
        return None


def user_id(name: str, number: int) -> str:
    """Of the user who does the event with this number."""
    return f"{name}-user-{number % TELLERS}"


def ask(path: str, host: str) -> Question:
    """A `GET /recommend` as a question."""
    given = parse_qs(urlsplit(path).query)
    return Question(
        Get(host, path).message, int(given["k"][0]), frozenset(given.get("item_id", []) + given.get("cart", []))
    )


def post(path: str, host: str, body: bytes) -> bytes:
    """A POST of JSON as it goes out."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply to a question, looked at."""

    due: float
    """Seconds after the start."""
    seconds: float
    status: int
    problem: str | None
    degraded: bool
    again: bool
    lag: float = 0.0
    """See `Reply`."""

    @property
    def valid(self) -> bool:
        """Whether it is an answer."""
        return self.problem is None


def look_at(replies: Sequence[Reply[Question]], crowd: Crowd) -> list[Answered]:
    """What became of each question."""
    found = []
    for reply in replies:
        problem = crowd.problem(reply)
        degraded = problem is None and orjson.loads(reply.body)["degraded"]
        found.append(Answered(reply.due, reply.seconds, reply.status, problem, degraded, reply.again, reply.lag))
    return found


@dataclass(frozen=True, slots=True)
class Sum:
    """Figures of some answers; shares are NaN of none."""

    n: int
    valid: int
    degraded: float
    """Share of the valid."""
    p99_ms: float
    """Of the valid."""
    refused: int
    """Status 429: with the word when to come again."""
    server_errors: int
    lag_ms: float = 0.0
    """By which the sender itself came late, 99th percentile."""
    problems: Counter[str] = field(default_factory=Counter)
    """Of what is neither valid nor refused."""


def back_to_normal(since: float, until: float, is_normal: Callable[[float, float], bool]) -> float | None:
    """Seconds after `since` to the first of two windows in a row that are normal; None where there are none before `until`.

    `is_normal` is given the start and the end of a window.
    """
    starts = np.arange(since, until - WINDOW_SECONDS / 2, WINDOW_SECONDS).tolist()
    normal = [is_normal(start, start + WINDOW_SECONDS) for start in starts]
    pairs = (number for number, both in enumerate(itertools.pairwise(normal)) if all(both))
    number = next(pairs, None)
    return None if number is None else number * WINDOW_SECONDS


def sum_up(answers: Sequence[Answered]) -> Sum:
    """Figures of these."""
    valid = [answer for answer in answers if answer.valid]
    taken = [answer.seconds for answer in valid]
    return Sum(
        n=len(answers),
        valid=len(valid),
        degraded=sum(answer.degraded for answer in valid) / len(valid) if valid else float("nan"),
        p99_ms=float(np.percentile(taken, 99)) * 1_000 if taken else float("nan"),
        refused=sum(answer.status == 429 for answer in answers),
        server_errors=sum(answer.status >= 500 for answer in answers),
        lag_ms=float(np.percentile([answer.lag for answer in answers], 99)) * 1_000 if answers else 0.0,
        problems=Counter(a.problem for a in answers if a.problem is not None and a.status != 429),
    )
