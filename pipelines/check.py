"""Tables against their declarations, on the file, out of core: after writing and before reading."""

from __future__ import annotations

from pathlib import Path

import duckdb

from pipelines.reading import quoted
from recsys.errors import UserError
from recsys.tables import Table


class TableError(UserError):
    """A table's file does not keep what its declaration in `recsys/tables.py` promises."""


def check_table(connection: duckdb.DuckDBPyConnection, table: Table, path: Path) -> int:
    """Verify columns, types, nulls and key of a Parquet file; return its number of rows.

    Raises:
        TableError: it is missing or breaks its declaration.
    """
    if not path.exists():
        raise TableError(f"{path} is missing: run `recsys tables`")
    source = f"read_parquet({quoted(str(path))})"
    found = [(name, kind) for name, kind, *_ in connection.execute(f"DESCRIBE FROM {source}").fetchall()]
    declared = [(column.name, column.type) for column in table.columns]
    if found != declared:
        raise TableError(f"{path} has columns {found}, declared are {declared}: rebuild it with `recsys tables`")
    rows = _scalar(connection, f"SELECT COUNT(*) FROM {source}")
    required = [column.name for column in table.columns if not column.nullable]
    if required and rows:
        nulls = ", ".join(f"COUNT(*) - COUNT({name})" for name in required)
        counts = connection.execute(f"SELECT {nulls} FROM {source}").fetchone() or ()
        broken = [f"{name} ({n:,})" for name, n in zip(required, counts, strict=True) if n]
        if broken:
            raise TableError(f"{path} has nulls in {', '.join(broken)}")
    if table.key:
        key = ", ".join(table.key)
        repeated = _scalar(
            connection, f"SELECT COUNT(*) FROM (SELECT {key} FROM {source} GROUP BY {key} HAVING COUNT(*) > 1)"
        )
        if repeated:
            raise TableError(f"{path}: {repeated:,} values of the key ({key}) stand more than once")
    return rows


def _scalar(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    return int(row[0]) if row else 0
