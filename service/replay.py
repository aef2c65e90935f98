"""Requests to try rules on: those of the log with what was known then, or such as the bundle's shoppers might make."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from pydantic import ValidationError

from recsys.bundle import BundleError, load_bundle
from recsys.events import EVENT_CODE, Surface
from recsys.publish import live_version
from recsys.ranking import EMPTY_HISTORY, NO_ITEM, History
from recsys.tables import CATALOGUE_LOG
from service.answering import join
from service.answers import Shopper
from service.bundles import LiveBundle
from service.catalogue import LiveCatalogue
from service.catalogue_log import CatalogueLog
from service.schemas import RecommendRequest

_DAY: Final = 86_400
_K: Final = 12

Happened = tuple[float, str, str]
"""When it was received, which item, which type of event."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A request as it was, or might be, made."""

    request: RecommendRequest
    shopper: Shopper
    at: float
    """Unix time."""


def open_live(data_dir: Path, version: str | None) -> LiveBundle:
    """A bundle, the live one unless named, with the catalogue as it is now.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
    """
    bundles = data_dir / "bundles"
    version = version or live_version(bundles)
    if version is None:
        raise BundleError(f"no bundle is live in {bundles}: name one, or train and publish one first")
    bundle = load_bundle(bundles / version)
    return LiveBundle(bundle, LiveCatalogue(bundle, CatalogueLog(data_dir / CATALOGUE_LOG)))


def requests_for(data_dir: Path, live: LiveBundle, limit: int) -> tuple[list[Replayed], str]:
    """At most `limit` requests to try rules on, and where they come from, in words."""
    logged = from_log(data_dir / "log", live, limit)
    if logged:
        return logged, f"{len(logged):,} requests of the log, each with the history of then"
    made = sampled(live, limit, time.time())
    return made, f"{len(made):,} requests made up from the bundle's users, since {data_dir / 'log'} holds none"


def from_log(folder: Path, live: LiveBundle, limit: int) -> list[Replayed]:
    """The last `limit` answers of the service's log, in order of time, each with the history of then.

    Answers of older versions, whose question the log does not hold, are passed over where they cannot be asked without it.
    """
    exposures = (
        (at, number, asked) for number, (at, line) in enumerate(_lines(folder, "exposure")) if (asked := _request(line))
    )
    # The number tells apart what happened at one moment.
    shown = sorted(heapq.nlargest(limit, exposures, key=lambda one: one[:2]), key=lambda one: one[:2])
    events: dict[str | None, list[Happened]] = {_shopper_of(asked): [] for _, _, asked in shown}
    for at, line in _lines(folder, "event"):
        for who in _shoppers_of(line) & events.keys():
            events[who].append((at, str(line.get("item_id")), str(line.get("type"))))
    for happened in events.values():
        happened.sort()
    return [Replayed(asked, _known(live, asked, events[_shopper_of(asked)], at), at) for at, _, asked in shown]


def _lines(folder: Path, kind: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """Time and content of every line of a kind that can be read."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                try:
                    content = orjson.loads(line)
                    if content["kind"] == kind:
                        moment = content["received_at" if kind == "event" else "occurred_at"]
                        yield datetime.fromisoformat(moment).timestamp(), content
                except (ValueError, KeyError, TypeError):
                    continue  # torn by a crash, or not ours


def _shopper_of(request: RecommendRequest) -> str | None:
    """Whose history an answer reads: the user's, else the session's."""
    if request.user_id is not None:
        return f"u:{request.user_id}"
    return None if request.session_id is None else f"s:{request.session_id}"


def _shoppers_of(line: dict[str, Any]) -> set[str]:
    """Whose histories an event is in."""
    given = {"u": line.get("user_id"), "s": line.get("session_id")}
    return {f"{kind}:{value}" for kind, value in given.items() if value is not None}


def _request(line: dict[str, Any]) -> RecommendRequest | None:
    """The question of a logged answer; None where the log does not hold enough of it."""
    members = {name: line.get(name) for name in ("user_id", "session_id", "surface")}
    try:
        asked = {"k": max(len(line["items"]), 1), **line.get("request", {}), **members}
        if before := line.get("shown_before"):  # on the same page
            filters = asked.get("filters", {})
            asked["filters"] = {**filters, "exclude_item_ids": [*filters.get("exclude_item_ids", ()), *before]}
        return RecommendRequest.model_validate(asked)
    except (ValidationError, KeyError, TypeError):
        return None


def _known(live: LiveBundle, request: RecommendRequest, events: list[Happened], at: float) -> Shopper:
    """What was known of a shopper: the bundle's history, then what had come since."""
    base = EMPTY_HISTORY if request.user_id is None else live.bundle.histories.of(request.user_id)
    since = [one for one in events if live.bundle.log_until < one[0] <= at and one[2] in EVENT_CODE]
    rows = [live.catalogue.row(item_id) for _, item_id, _ in since]
    listed = [(row, one) for row, one in zip(rows, since, strict=True) if row != NO_ITEM]
    recent = History(
        np.array([row for row, _ in listed], dtype=np.int32),
        np.array([EVENT_CODE[one[2]] for _, one in listed], dtype=np.uint8),
        np.array([(at - one[0]) / _DAY for _, one in listed], dtype=np.float32),
    )
    return Shopper(join(base, recent), recent.items)


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
