"""The log of versions before the database: JSON lines in `log/*.jsonl`, taken into the database once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import Engine

from recsys.store.database import writing
from recsys.store.schema import EXPOSURES, Origin
from recsys.store.writing import Row, insert_events, insert_new

_AT_ONCE: Final = 5_000
_EVENT_TEXTS: Final = ("user_id", "session_id", "price_cents", "order_id", "request_id", "surface", "region")
_EXPOSURE_TEXTS: Final = ("user_id", "session_id", "page_id", "widget", "rules", "moved_by", "shown_before", "plan")


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of the lines."""

    events: int = 0
    exposures: int = 0
    known: int = 0
    """That the database had already."""
    unreadable: int = 0
    """Torn by a crash and never acknowledged, or written by hand."""


def old_logs(data_dir: Path) -> list[Path]:
    """The files that are still to be taken in."""
    return sorted((data_dir / "log").glob("*.jsonl"))


def import_log(engine: Engine, data_dir: Path) -> Imported:
    """Take the files in; each is renamed to `*.jsonl.imported` when all of it is in the database.

    Lines that the database has already change nothing, so an import that was broken off may be started again.
    """
    events = exposures = known = unreadable = 0
    for path in old_logs(data_dir):
        with path.open("rb") as file:
            while lines := list(islice(file, _AT_ONCE)):
                rows = [(kind, row) for line in lines if line.strip() for kind, row in _read(line)]
                told = [row for kind, row in rows if kind == "event"]
                shown = [row for kind, row in rows if kind == "exposure"]
                with writing(engine) as connection:
                    new_events = len(insert_events(connection, told))
                    new_exposures = len(insert_new(connection, EXPOSURES, "request_id", shown))
                events += new_events
                exposures += new_exposures
                known += len(rows) - new_events - new_exposures
                unreadable += sum(bool(line.strip()) for line in lines) - len(rows)
        path.rename(path.with_name(f"{path.name}.imported"))
    return Imported(events, exposures, known, unreadable)


def _read(line: bytes) -> Iterator[tuple[str, Row]]:
    """Kind and row of a line, if it is one of ours."""
    try:
        content = orjson.loads(line)
        kind = content["kind"]
        if kind == "event":
            yield kind, _event(content)
        elif kind == "exposure":
            yield kind, _exposure(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return


def _event(content: dict[str, Any]) -> Row:
    row = {name: content.get(name) for name in _EVENT_TEXTS}
    row |= {name: str(content[name]) for name in ("event_id", "type", "item_id")}
    times = {name: _moment(content[name]) for name in ("occurred_at", "received_at")}
    return {**row, **times, "quantity": int(content.get("quantity", 1)), "origin": Origin.API.value}


def _exposure(content: dict[str, Any]) -> Row:
    return {
        **{name: content.get(name) for name in _EXPOSURE_TEXTS},
        **{name: str(content[name]) for name in ("request_id", "surface", "served_by", "model_version")},
        "occurred_at": _moment(content["occurred_at"]),
        "degraded": bool(content["degraded"]),
        "phase": None,
        "arms": {},
        "seconds": None,
        "items": [[item_id, source, None, None] for item_id, source in content["items"]],
        "request": content.get("request", {}),
    }


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
