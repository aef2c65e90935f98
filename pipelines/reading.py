"""Reading a source's files by DuckDB into the raw tables: the only step whose SQL belongs to one engine.

Everything is text here; nothing is judged. Lines that cannot be split into columns are kept whole.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from pathlib import Path

import duckdb

from pipelines.mapping import CatalogueSource, EventSource, Files, MappingError, UserSource
from recsys.errors import UserError
from recsys.tables import RAW_EVENTS, RAW_ITEMS, RAW_USERS, Table

COPY_CHARS = 1 << 22


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def as_utf8(paths: Sequence[Path], encoding: str, folder: Path) -> list[Path]:
    """The same files in UTF-8: themselves, or copies in `folder`.

    Raises:
        UserError: the encoding is unknown, or a file is not written in it.
    """
    try:
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise UserError(f"unknown encoding {encoding!r}: try 'utf-8', 'latin-1' or 'cp1252'") from error
    if codec == "utf-8":
        return list(paths)
    copies = []
    for number, path in enumerate(paths):
        copy = folder / f"{number}-{path.name}"
        try:
            with (
                path.open(encoding=codec, newline="") as source,
                copy.open("w", encoding="utf-8", newline="") as target,
            ):
                while chunk := source.read(COPY_CHARS):
                    target.write(chunk)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not {encoding}: {error}") from error
        copies.append(copy)
    return copies


def _header(path: Path, delimiter: str) -> list[str]:
    """Column names of a CSV file in UTF-8.

    Raises:
        MappingError: it is empty.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file, delimiter=delimiter), [])
    if not names:
        raise MappingError(f"{path.name} is empty")
    return [name.strip() or f"column{n}" for n, name in enumerate(names)]


class Reader:
    """A relation over a source's files, and how to name its columns in SQL."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, source: Files, paths: Sequence[Path], folder: Path
    ) -> None:
        """`folder` holds what has to be copied first; the caller removes it."""
        self.source = source
        self._connection = connection
        copies = as_utf8(paths, source.encoding, folder)
        files = "[" + ", ".join(quoted(str(path)) for path in copies) + "]"
        if source.format == "parquet":
            self.relation = f"read_parquet({files}, union_by_name = true)"
        elif source.format == "csv":
            self.relation = self._csv(copies)
        else:
            # One column of whole lines: a torn last line must not cost the others.
            self.relation = (
                f"read_csv({files}, delim = '\\x01', quote = '', escape = '', header = false, auto_detect = false, "
                "columns = {'line': 'VARCHAR'}, max_line_size = 16777216)"
            )
        self._types = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE FROM {self.relation}").fetchall()}

    def _csv(self, paths: Sequence[Path]) -> str:
        """All columns as text, by the header's names; lines that do not fit go to DuckDB's table of rejects."""
        delimiter = self.source.delimiter
        headers = {path: _header(path, delimiter) for path in paths}
        names = headers[paths[0]]
        for path, header in headers.items():
            if header != names:
                raise MappingError(
                    f"{path.name} has other columns than {paths[0].name}: make them sources of their own"
                )
        if len(set(names)) != len(names):
            raise MappingError(f"{paths[0].name} names a column twice: {', '.join(names)}")
        columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in names)
        files = ", ".join(quoted(str(path)) for path in paths)
        return (
            f"read_csv([{files}], auto_detect = false, header = true, delim = {quoted(delimiter)}, quote = '\"', "
            f"escape = '\"', columns = {{{columns}}}, ignore_errors = true, store_rejects = true)"
        )

    def column(self, name: str | None) -> str:
        """Trimmed text of a column, NULL where it is empty or not mapped.

        Raises:
            MappingError: the files have no such column.
        """
        if name is None:
            return "CAST(NULL AS VARCHAR)"
        if self.source.format == "jsonl":
            path = quoted(f"$.{identifier(name)}")
            return f"NULLIF(CASE WHEN json_valid(line) THEN json_extract_string(line, {path}) END, '')"
        if name not in self._types:
            raise MappingError(f"{self.source.files!r} has no column {name!r}; it has: {', '.join(self._types)}")
        return f"NULLIF(TRIM(CAST({identifier(name)} AS VARCHAR)), '')"

    def number(self, name: str | None) -> str:
        """A column's number as text with a decimal point: currency signs, blanks and thousands separators removed."""
        text = f"REGEXP_REPLACE({self.column(name)}, '[^0-9,.eE+-]', '', 'g')"
        if self.source.decimal_comma:
            return f"REPLACE(REPLACE({text}, '.', ''), ',', '.')"
        return f"REPLACE({text}, ',', '')"

    def time(self, name: str | None) -> str:
        """A column's moment as a UTC TIMESTAMP, NULL where it cannot be read."""
        if name is None:
            return "CAST(NULL AS TIMESTAMP)"
        text, zone = self.column(name), quoted(self.source.time_zone)
        written = self.source.timestamp_format
        if written in ("unix", "unix_ms"):
            micros = 1_000_000 if written == "unix" else 1_000
            return f"make_timestamp(CAST(ROUND(TRY_CAST({text} AS DOUBLE) * {micros}) AS BIGINT))"
        if written != "iso":
            return f"TIMEZONE('UTC', TIMEZONE({zone}, try_strptime({text}, {quoted(written)})))"
        has_offset = (
            f"REGEXP_MATCHES({text}, '([zZ]|[+-][0-9]{{2}}:?[0-9]{{2}}|[+-][0-9]{{2}})$') AND LENGTH({text}) > 10"
        )
        with_offset = f"TIMEZONE('UTC', TRY_CAST({text} AS TIMESTAMPTZ))"
        without = f"TIMEZONE('UTC', TIMEZONE({zone}, TRY_CAST({text} AS TIMESTAMP)))"
        return f"CASE WHEN {has_offset} THEN {with_offset} ELSE {without} END"

    def json_of(self, names: Sequence[str]) -> str:
        """A JSON object of some columns, NULL without any."""
        if not names:
            return "CAST(NULL AS VARCHAR)"
        members = (f"{quoted(name)}, {self._as_json(name)}" for name in names)
        return f"CAST(json_object({', '.join(members)}) AS VARCHAR)"

    def _as_json(self, name: str) -> str:
        """Text of a column, a list as JSON, whichever way the file holds it."""
        text = self.column(name)
        is_list = self._types.get(name, "").endswith("]")
        return f"CAST(to_json({identifier(name)}) AS VARCHAR)" if is_list else text


def event_select(reader: Reader, source: EventSource) -> str:
    """SELECT of the source's lines as `RAW_EVENTS`."""
    columns = source.columns
    user = reader.column(columns.user_id)
    missing = ", ".join(quoted(value) for value in source.missing_users) or "''"
    quantity = reader.number(columns.quantity)
    price = reader.number(columns.unit_price)
    if columns.line_total:
        units = f"NULLIF(ABS(TRY_CAST({quantity} AS DOUBLE)), 0)" if columns.quantity else "1"
        price = f"CAST(ABS(TRY_CAST({reader.number(columns.line_total)} AS DOUBLE)) / {units} AS VARCHAR)"
    if source.price_scale != 1.0:
        price = f"CAST(TRY_CAST({price} AS DOUBLE) * {source.price_scale} AS VARCHAR)"
    expressions = {
        "source": quoted(source.source),
        "event_id": reader.column(columns.event_id),
        "event_type": _event_type(reader, source),
        # A number that a float column has turned into 12345.0 is still the id 12345.
        "user_id": f"CASE WHEN {user} NOT IN ({missing}) THEN {_without_point_zero(user)} END",
        "session_id": _without_point_zero(reader.column(columns.session_id)),
        "item_id": _without_point_zero(reader.column(columns.item_id)),
        "order_id": _without_point_zero(reader.column(columns.order_id)),
        "quantity": quantity if columns.quantity else "CAST(NULL AS VARCHAR)",
        "price": price if columns.unit_price or columns.line_total else "CAST(NULL AS VARCHAR)",
        "occurred_at": reader.time(columns.timestamp),
        "occurred_at_text": reader.column(columns.timestamp),
        "received_at": reader.time(columns.received_at),
        "request_id": reader.column(columns.request_id),
        "surface": reader.column(columns.surface),
        "region": _without_point_zero(reader.column(columns.region)),
        "line": "CASE WHEN NOT json_valid(line) THEN line END" if source.format == "jsonl" else "CAST(NULL AS VARCHAR)",
    }
    return _select(expressions, RAW_EVENTS, reader.relation)


def _event_type(reader: Reader, source: EventSource) -> str:
    """Our event type: a return where the line says so, else the constant or mapped one, else as found."""
    columns, returns = source.columns, source.returns
    found = f"LOWER({reader.column(columns.event_type)})"
    cases = []
    if returns.event_types:
        values = ", ".join(quoted(value.lower()) for value in returns.event_types)
        cases.append(f"WHEN {found} IN ({values}) THEN 'return'")
    if returns.order_id_prefix:
        cases.append(
            f"WHEN STARTS_WITH({reader.column(columns.order_id)}, {quoted(returns.order_id_prefix)}) THEN 'return'"
        )
    if returns.negative_quantity and columns.quantity:
        cases.append(f"WHEN TRY_CAST({reader.number(columns.quantity)} AS DOUBLE) < 0 THEN 'return'")
    cases += [f"WHEN {found} = {quoted(theirs.lower())} THEN '{ours}'" for theirs, ours in source.event_types.items()]
    otherwise = f"'{source.event_type}'" if source.event_type else found
    return f"CASE {' '.join(cases)} ELSE {otherwise} END" if cases else otherwise


def _without_point_zero(text: str) -> str:
    return f"REGEXP_REPLACE({text}, '^([0-9]+)\\.0+$', '\\1')"


def item_select(reader: Reader, source: CatalogueSource) -> str:
    """SELECT of the catalogue's lines as `RAW_ITEMS`."""

    def joined(names: Sequence[str], separator: str) -> str:
        parts = ", ".join(reader.column(name) for name in names)
        return f"NULLIF(CONCAT_WS({quoted(separator)}, {parts}), '')" if names else "CAST(NULL AS VARCHAR)"

    available = "CAST(NULL AS VARCHAR)"
    if source.available:
        no = "('0', 'false', 'no', 'n', 'f', '')"
        available = (
            f"CASE WHEN COALESCE(LOWER({reader.column(source.available)}), '') IN {no} THEN 'false' ELSE 'true' END"
        )
    expressions = {
        "item_id": _without_point_zero(reader.column(source.item_id)),
        "title": joined(source.title, " "),
        "description": reader.column(source.description),
        "category": joined(source.category, " > "),
        "brand": reader.column(source.brand),
        "price": reader.number(source.price) if source.price else "CAST(NULL AS VARCHAR)",
        "image_url": reader.column(source.image_url),
        "attributes": reader.json_of(source.attributes),
        "available": available,
        "listed_at": reader.time(source.listed_at),
    }
    return _select(expressions, RAW_ITEMS, reader.relation)


def user_select(reader: Reader, source: UserSource) -> str:
    """SELECT of the user export's lines as `RAW_USERS`."""
    expressions = {
        "user_id": _without_point_zero(reader.column(source.user_id)),
        "attributes": reader.json_of(source.attributes),
    }
    return _select(expressions, RAW_USERS, reader.relation)


def exposure_select(reader: Reader) -> str:
    """SELECT of the log's exposures as `RAW_EXPOSURES`, one row for each item shown."""
    return f"""
        WITH shown AS (
            SELECT * EXCLUDE (items), UNNEST(CAST(CAST(items AS JSON) AS JSON[])) AS item,
                UNNEST(RANGE(1, CAST(json_array_length(items) AS BIGINT) + 1)) AS position
            FROM {reader.relation}
        )
        SELECT request_id, json_extract_string(item, '$[0]') AS item_id, CAST(position AS INTEGER) AS position, occurred_at,
            user_id, session_id, surface, json_extract_string(item, '$[1]') AS source, served_by, model_version, degraded,
            CAST(phase AS INTEGER) AS phase, page_id, seconds, CAST(json_extract(item, '$[2]') AS DOUBLE) AS propensity,
            json_extract_string(item, '$[3]') AS team
        FROM shown"""


def render_select(reader: Reader) -> str:
    """SELECT of the log's renders as `RAW_RENDERS`, one row for each item, or for all of an answer's."""
    return f"""
        SELECT request_id, rendered_at, json_extract_string(item, '$') AS item_id
        FROM (
            SELECT *, UNNEST(COALESCE(CAST(CAST(items AS JSON) AS JSON[]), [NULL])) AS item FROM {reader.relation}
        )"""


def arm_select(reader: Reader) -> str:
    """SELECT of the log's exposures as `RAW_ARMS`, one row for each experiment that an answer was part of."""
    return f"""
        SELECT request_id, experiment,
            json_extract_string(arms, '$."' || experiment || '"[0]') AS arm,
            json_extract_string(arms, '$."' || experiment || '"[1]') AS unit
        FROM (SELECT request_id, arms, UNNEST(json_keys(arms)) AS experiment FROM {reader.relation})"""


def merge_select(reader: Reader) -> str:
    """SELECT of the log's merges as `RAW_MERGES`."""
    return f"SELECT number, session_id, user_id, since FROM {reader.relation}"


def _select(expressions: dict[str, str], table: Table, relation: str) -> str:
    members = ", ".join(f"{expressions[column.name]} AS {column.name}" for column in table.columns)
    return f"SELECT {members} FROM {relation}"
