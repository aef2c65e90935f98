"""Small shops for tests, built from rows that a reader can count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recsys.dataset import SECONDS_PER_DAY, Catalogue, Dataset, Events
from recsys.events import EVENT_CODE, EventType
from recsys.ranking import History, Query

START = 1_700_000_000
Row = tuple[int, int, int, str]
"""Second, shopper, item, event type. Shoppers from `n_users` on are anonymous."""


def make_dataset(rows: Sequence[Row], *, n_items: int, n_users: int, sessions: Sequence[int] | None = None) -> Dataset:
    """A shop; every event is a session of its own unless `sessions`, parallel to `rows`, says otherwise."""
    order = sorted(range(len(rows)), key=lambda n: rows[n])
    rows = [rows[n] for n in order]
    session = np.array([n if sessions is None else sessions[n] for n in order], dtype=np.int32)
    shopper = np.array([row[1] for row in rows], dtype=np.int32)
    return Dataset(
        events=Events(
            shopper=shopper,
            session=session,
            item=np.array([row[2] for row in rows], dtype=np.int32),
            event_type=np.array([EVENT_CODE[row[3]] for row in rows], dtype=np.uint8),
            second=np.array([row[0] for row in rows], dtype=np.int64),
            quantity=np.ones(len(rows), dtype=np.int32),
            region=np.full(len(rows), -1, dtype=np.int32),
        ),
        catalogue=make_catalogue(n_items),
        user_ids=tuple(f"u{n}" for n in range(n_users)),
        n_shoppers=max(n_users, int(shopper.max(initial=-1)) + 1),
        n_sessions=int(session.max(initial=-1)) + 1,
    )


def make_catalogue(n_items: int) -> Catalogue:
    """Items i0, i1, ...; even ones of the category Even, odd ones of Odd; all for sale, listed at the start."""
    return Catalogue(
        item_ids=tuple(f"i{n}" for n in range(n_items)),
        titles=tuple(f"Item {n}" for n in range(n_items)),
        brands=tuple(f"Brand {n % 3}" if n % 4 else None for n in range(n_items)),
        category=(np.arange(n_items) % 2).astype(np.int32),
        categories=("Even", "Odd"),
        price_cents=(100 + np.arange(n_items)).astype(np.int64),
        listed_price_cents=(100 + np.arange(n_items)).astype(np.int64),
        descriptions=(None,) * n_items,
        attributes=(None,) * n_items,
        image_urls=(None,) * n_items,
        available=np.ones(n_items, dtype=np.bool_),
        listed_second=np.full(n_items, START, dtype=np.int64),
    )


def checkerboard(n_users: int = 40, n_items: int = 40, per_user: int = 12, seed: int = 0) -> Dataset:
    """Even shoppers buy even items, odd ones odd items: what to recommend to whom is known."""
    rng = np.random.default_rng(seed)
    rows, sessions = [], []
    for user in range(n_users):
        own = np.arange(user % 2, n_items, 2)
        for visit in range(2):
            for item in rng.choice(own, size=per_user // 2, replace=False):
                moment = START + int(rng.integers(0, 30)) * SECONDS_PER_DAY
                rows.append((moment, user, int(item), "purchase"))
                sessions.append(2 * user + visit)
    return make_dataset(rows, n_items=n_items, n_users=n_users, sessions=sessions)


def without_availability(dataset: Dataset, items: Sequence[int]) -> Dataset:
    """The same shop with some items switched off."""
    available = dataset.catalogue.available.copy()
    available[list(items)] = False
    return replace(dataset, catalogue=replace(dataset.catalogue, available=available))


def history(*items: int, kind: EventType = EventType.PURCHASE, age_days: float = 1.0) -> History:
    """Events of one kind, all of the same age."""
    n = len(items)
    return History(
        np.array(items, dtype=np.int32),
        np.full(n, EVENT_CODE[kind], dtype=np.uint8),
        np.full(n, age_days, dtype=np.float32),
    )


def query(*items: int, **fields: object) -> Query:
    """A query of a shopper who bought these items; the last one is also what the page, cart and session show."""
    last = np.array(items[-1:], dtype=np.int32)
    given = {
        "history": history(*items),
        "session_items": last,
        "cart_items": last,
        "context_item": int(items[-1]) if items else -1,
        **fields,
    }
    return Query(**given)  # type: ignore[arg-type]
