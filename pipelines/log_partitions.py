"""The database's log as daily Parquet files: each run adds the rows that are new, and no run doubles or loses one.

`log/<kind>/date=YYYY-MM-DD/part-<first>-<last>.parquet` holds rows with numbers from first to last. `log/<kind>/watermark` names the last number
that is in files; it moves when all files up to there are whole. Files beyond it are what a crash left, and are written again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl
from sqlalchemy import JSON, Boolean, DateTime, Engine, Float, Integer, Table
from sqlalchemy.types import TypeEngine

from recsys.errors import UserError
from recsys.store.reading import rows_between, watermark
from recsys.store.schema import EVENTS, EXPOSURES, MERGES, RENDERS

KINDS: Final = {
    "events": (EVENTS, "received_at"),
    "exposures": (EXPOSURES, "occurred_at"),
    "renders": (RENDERS, "received_at"),
    "merges": (MERGES, "since"),
}
"""The table of each kind, and the column that says on which day a row is filed."""
FILE_ROWS: Final = 200_000
"""Rows that are written at once, at most."""
_LAST: Final = re.compile(r"part-\d+-(\d+)\.parquet")


def export_log(engine: Engine, folder: Path) -> dict[str, int]:
    """Bring the files below `folder` up to date; how many rows were added, by kind.

    Raises:
        UserError: the database holds less than was written before: it is another one.
    """
    return {kind: _export(engine, table, day, folder / kind) for kind, (table, day) in KINDS.items()}


def partitions(folder: Path, kind: str) -> list[Path]:
    """The files of a kind, sorted."""
    return sorted((folder / kind).glob("date=*/part-*.parquet"))


def _export(engine: Engine, table: Table, day: str, folder: Path) -> int:
    done, until = _read_mark(folder), watermark(engine, table)
    if until < done:
        raise UserError(
            f"{folder} holds rows up to number {done:,}, the database only up to {until:,}: it is another one. "
            f"Point DATABASE_URL to the one that was read before, or move {folder} away to begin anew"
        )
    for path in folder.glob("date=*/*"):
        match = _LAST.fullmatch(path.name)
        if match is None or int(match[1]) > done:
            path.unlink()
    added, nested = 0, {column.name for column in table.columns if isinstance(column.type, JSON)}
    for rows in _in_files(rows_between(engine, table, done, until)):
        frame = pl.DataFrame(
            [_plain(row, nested) for row in rows],
            schema={column.name: _polars_type(column.type) for column in table.columns},
            orient="row",
        )
        last = int(rows[-1]["number"])
        for (date,), part in frame.group_by(pl.col(day).dt.date(), maintain_order=True):
            _write(part, folder / f"date={date}" / f"part-{rows[0]['number']}-{last}.parquet")
        _write_mark(folder, last)
        added += len(rows)
    return added


def _in_files(chunks: Iterable[list[dict[str, Any]]]) -> Iterable[list[dict[str, Any]]]:
    """The same rows, as many at a time as one file takes."""
    waiting: list[dict[str, Any]] = []
    for chunk in chunks:
        waiting += chunk
        if len(waiting) >= FILE_ROWS:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _plain(row: dict[str, Any], nested: set[str]) -> dict[str, Any]:
    """A row with its `nested` columns as text, JSON."""
    return {
        name: orjson.dumps(value).decode() if name in nested and value is not None else value
        for name, value in row.items()
    }


def _polars_type(kind: TypeEngine[Any]) -> pl.DataType:
    if isinstance(kind, DateTime):
        return pl.Datetime("us")
    if isinstance(kind, Boolean):
        return pl.Boolean()
    if isinstance(kind, Float):
        return pl.Float64()
    return pl.Int64() if isinstance(kind, Integer) else pl.String()


def _write(frame: pl.DataFrame, path: Path) -> None:
    """A file that appears whole, and stays after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    frame.write_parquet(draft)
    _sync(draft)
    draft.replace(path)
    _sync(path.parent)


def _read_mark(folder: Path) -> int:
    mark = folder / "watermark"
    return int(mark.read_text()) if mark.exists() else 0


def _write_mark(folder: Path, number: int) -> None:
    draft = folder / "watermark.tmp"
    draft.write_text(f"{number}\n")
    _sync(draft)
    draft.replace(folder / "watermark")
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
