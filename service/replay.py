"""Requests to try rules on: those of the log with what was known then, or such as the bundle's shoppers might make."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError
from sqlalchemy import URL, Engine

from recsys.bundle import BundleError, load_bundle, require_name
from recsys.events import EVENT_CODE, Surface
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.privacy.tombstones import Tombstones
from recsys.publish import live_version
from recsys.ranking import EMPTY_HISTORY, NO_ITEM, History
from recsys.store import migrate
from recsys.store.database import exists, opened, reading
from recsys.store.reading import events_of, latest_exposures, logins_of, owner_at, rows_between, watermark
from recsys.store.schema import EVENTS
from recsys.store.writing import Row
from recsys.tables import CATALOGUE_LOG
from service.answering import SESSION_SECONDS, join
from service.answers import Shopper
from service.bundles import LiveBundle
from service.catalogue import LiveCatalogue
from service.catalogue_log import CatalogueLog, PastCatalogueLog
from service.event_log import unix
from service.schemas import RecommendRequest
from service.settings import Settings
from service.veil import veiled

_DAY: Final = 86_400
_K: Final = 12

Happened = tuple[float, float, str, str]
"""Since when it was known to be the shopper's, when it was received, which item, which type of event."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A request as it was, or might be, made."""

    request: RecommendRequest
    shopper: Shopper
    at: float
    """Unix time."""
    request_id: str = ""
    """Of the answer that it had; empty for one that is made up."""


def open_live(data_dir: Path, version: str | None) -> LiveBundle:
    """A bundle, the live one unless named, with the catalogue as it is now; who was deleted is not known to it.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
    """
    bundles = data_dir / "bundles"
    version = version or live_version(bundles)
    if version is None:
        raise BundleError(f"no bundle is live in {bundles}: name one, or train and publish one first")
    tombstones = Tombstones(data_dir, Pseudonyms(data_dir, Settings().privacy_key))
    bundle = veiled(load_bundle(bundles / version), tombstones)
    return LiveBundle(bundle, LiveCatalogue(bundle, CatalogueLog(data_dir / CATALOGUE_LOG)))


def open_then(data_dir: Path, version: str, moment: datetime) -> LiveBundle:
    """A bundle with the catalogue as it was at a moment (UTC).

    Raises:
        BundleError: there is no such bundle, or it is damaged.
    """
    bundle = load_bundle(data_dir / "bundles" / require_name(version))
    return LiveBundle(bundle, LiveCatalogue(bundle, PastCatalogueLog(data_dir / CATALOGUE_LOG, moment)))


def requests_for(url: URL, live: LiveBundle, limit: int) -> tuple[list[Replayed], str]:
    """At most `limit` requests to try rules on, and where they come from, in words.

    Raises:
        UserError: the database cannot be used.
    """
    with opened(url) as engine:
        logged = from_log(engine, live, limit) if exists(url) and migrate.version(engine) is not None else []
    if logged:
        return logged, f"{len(logged):,} requests of the log, each with the history of then"
    made = sampled(live, limit, time.time())
    return made, f"{len(made):,} requests made up from the bundle's users, since the log holds none"


def from_log(
    engine: Engine, live: LiveBundle, limit: int, wanted: Callable[[Row], bool] = lambda _: True
) -> list[Replayed]:
    """The last `limit` answers of the service's log that are wanted, in order of time, each with the history of then.

    Answers of older versions, whose question the log does not hold, are passed over where they cannot be asked without it.
    """
    askable = (
        (unix(row["occurred_at"]), row["request_id"], asked)
        for row in latest_exposures(engine)
        if wanted(row) and (asked := request_of(row))
    )
    shown = list(itertools.islice(askable, limit))[::-1]
    shown.sort(key=lambda one: one[0])
    chunks = rows_between(engine, EVENTS, 0, watermark(engine, EVENTS))
    events = _histories(engine, {_shopper_of(asked) for _, _, asked in shown}, chunks)
    return [
        Replayed(asked, _known(live, asked, events[_shopper_of(asked)], at), at, request_id)
        for at, request_id, asked in shown
    ]


def replayed(engine: Engine, live: LiveBundle, row: Row) -> Replayed | None:
    """One answer of the log, with the history of then; None where it cannot be asked again."""
    asked = request_of(row)
    if asked is None:
        return None
    at, who = unix(row["occurred_at"]), _shopper_of(asked)
    events = _histories(engine, {who}, [events_of(engine, asked.user_id, asked.session_id)])
    return Replayed(asked, _known(live, asked, events[who], at), at, row["request_id"])


def _histories(
    engine: Engine, shoppers: Collection[str | None], chunks: Iterable[Sequence[Row]]
) -> dict[str | None, list[Happened]]:
    """What happened to each of these shoppers, by time."""
    events: dict[str | None, list[Happened]] = {who: [] for who in shoppers}
    for rows in chunks:
        with reading(engine) as connection:
            logins = logins_of(connection, {row["session_id"] for row in rows} - {None})
        for row in rows:
            for who, known_at in _known_from(row, logins).items():
                if who in events:
                    events[who].append((known_at, unix(row["received_at"]), row["item_id"], row["type"]))
    for happened in events.values():
        happened.sort(key=lambda one: one[1])
    return events


def _known_from(row: Row, logins: Mapping[str, Sequence[tuple[datetime, str]]]) -> dict[str, float]:
    """Whose histories an event is in, and since when: in a user's, where they log in later, since then."""
    at, user, session = unix(row["received_at"]), row["user_id"], row["session_id"]
    found = {} if session is None else {f"s:{session}": at}
    if user is not None:
        found[f"u:{user}"] = at
    elif session in logins:
        owner = owner_at(logins[session], row["received_at"])
        found[f"u:{owner}"] = max(at, unix(logins[session][0][0]))
    return found


def _shopper_of(request: RecommendRequest) -> str | None:
    """Whose history an answer reads: the user's, else the session's."""
    if request.user_id is not None:
        return f"u:{request.user_id}"
    return None if request.session_id is None else f"s:{request.session_id}"


def request_of(line: Row) -> RecommendRequest | None:
    """The question of a logged answer; None where the log does not hold enough of it."""
    members = {name: line.get(name) for name in ("user_id", "session_id", "surface")}
    try:
        asked = {"k": max(len(line["items"]), 1), **line["request"], **members}
        if before := line["shown_before"]:  # on the same page
            filters = asked.get("filters", {})
            asked["filters"] = {**filters, "exclude_item_ids": [*filters.get("exclude_item_ids", ()), *before]}
        return RecommendRequest.model_validate(asked)
    except ValidationError:
        return None


def _known(live: LiveBundle, request: RecommendRequest, events: list[Happened], at: float) -> Shopper:
    """What was known of a shopper: the bundle's history, then what had come since."""
    base = EMPTY_HISTORY if request.user_id is None else live.bundle.histories.of(request.user_id)
    since = [one for one in events if live.bundle.log_until < one[1] and one[0] <= at and one[3] in EVENT_CODE]
    rows = [live.catalogue.row(item_id) for _, _, item_id, _ in since]
    listed = [(row, one) for row, one in zip(rows, since, strict=True) if row != NO_ITEM]
    recent = History(
        np.array([row for row, _ in listed], dtype=np.int32),
        np.array([EVENT_CODE[one[3]] for _, one in listed], dtype=np.uint8),
        np.array([(at - one[1]) / _DAY for _, one in listed], dtype=np.float32),
    )
    return Shopper(join(base, recent), recent.items[recent.age_days * _DAY <= SESSION_SECONDS])


def sampled(live: LiveBundle, n: int, at: float, seed: int = 0) -> list[Replayed]:
    """n requests of random users of the bundle, all surfaces in turn; pages and carts show what the user chose last.

    A bundle knows users by a hash of their id, so where they are and what they told of themselves is left out.
    """
    rng = np.random.default_rng(seed)
    histories = live.bundle.histories
    lengths = np.diff(histories.offsets)
    users = np.flatnonzero(lengths > 0)
    if len(users) == 0:
        return []
    found = []
    for number, row in enumerate(rng.choice(users, n).tolist()):
        history = histories.of_row(row)
        last = live.catalogue.item_id(int(history.items[-1]))
        surface = tuple(Surface)[number % len(Surface)]
        members: dict[str, Any] = {"surface": surface, "k": _K}
        if surface in (Surface.SIMILAR, Surface.BOUGHT_TOGETHER):
            members["item_id"] = last
        elif surface is Surface.CART:
            members["cart"] = [last]
        found.append(Replayed(RecommendRequest.model_validate(members), Shopper(history), at))
    return found
