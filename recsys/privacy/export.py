"""What is known of a shopper, as JSON lines of declared kinds (GDPR, Articles 15 and 20)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson
from sqlalchemy import Engine

from recsys.store.schema import EVENTS, EXPOSURES, MERGES, RENDERS, VERDICTS
from recsys.store.shoppers import Footprint, footprint

FORMAT: Final = 1

Line = dict[str, Any]
"""A line's members, `kind` first."""

_TABLES: Final = {EVENTS: "event", EXPOSURES: "exposure", RENDERS: "render", MERGES: "login", VERDICTS: "verdict"}
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "export": ("format", "user_id", "at", "places", "without"),
    **{kind: tuple(column.name for column in table.columns) for table, kind in _TABLES.items()},
    "assignment": ("request_id", "experiment", "arm", "unit"),
    "recent": ("history", "item_id", "item_hash", "event_type", "received_at"),
    "known": ("model_version", "item_id", "event_type", "age_days"),
    "profile": ("model_version", "region_code", "segment_codes"),
    "row": ("file", "row"),
    "deletion": ("receipt", "at"),
}
"""Every kind of line and the members it has beside `kind`. docs/privacy.md says what they mean; a test compares the two."""


def of_database(engine: Engine, user_id: str) -> tuple[Footprint, Iterator[Line]]:
    """What the database holds of a user."""
    found = footprint(engine, user_id)
    return found, _lines(found)


def _lines(found: Footprint) -> Iterator[Line]:
    for table, kind in _TABLES.items():
        for row in found.rows[table.name]:
            yield {"kind": kind, **row}
    for row in found.rows[EXPOSURES.name]:
        for experiment, (arm, unit) in row["arms"].items():
            yield {
                "kind": "assignment",
                "request_id": row["request_id"],
                "experiment": experiment,
                "arm": arm,
                "unit": unit,
            }


def header(user_id: str, at: str, places: Iterable[str], without: Iterable[str]) -> Line:
    """The first line: whose it is, where was looked, and where not."""
    return {
        "kind": "export",
        "format": FORMAT,
        "user_id": user_id,
        "at": at,
        "places": list(places),
        "without": list(without),
    }


def as_json(lines: Iterable[Line]) -> bytes:
    """JSON lines; times are UTC."""
    return b"".join(
        orjson.dumps(line, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE, default=str)
        for line in lines
    )
