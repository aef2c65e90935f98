"""A first mapping for unmapped files: looks at names and values, writes TOML that a person then checks."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

import polars as pl

from recsys.errors import UserError

SAMPLE_CHARS: Final = 1 << 20
SAMPLE_ROWS: Final = 2_000
ENCODINGS: Final = ("utf-8", "cp1252", "latin-1")

# Column names, folded to lower-case letters and digits, in the order of preference.
NAMES: Final[Mapping[str, Sequence[str]]] = {
    "event_id": ("eventid", "transactionlineid", "lineid", "uuid"),
    "event_type": ("eventtype", "event", "action", "behavior", "behaviour", "type", "ereignis"),
    "user_id": (
        *("userid", "customerid", "visitorid", "clientid", "memberid", "householdid", "shopperid", "user", "customer"),
        *("kunde", "kundennr", "kundennummer", "kundenid", "client", "cliente", "idcliente"),
    ),
    "session_id": ("sessionid", "usersession", "visitid", "session"),
    "order_id": (
        *(
            "orderid",
            "invoiceno",
            "invoice",
            "invoiceid",
            "transactionid",
            "basketid",
            "ordernumber",
            "orderno",
            "order",
        ),
        *(
            "bestellnr",
            "bestellnummer",
            "bestellung",
            "rechnung",
            "rechnungsnr",
            "commande",
            "facture",
            "pedido",
            "factura",
        ),
    ),
    "item_id": (
        *("itemid", "productid", "stockcode", "sku", "articleid", "productcode", "asin", "item", "product", "article"),
        *("artikel", "artikelnr", "artikelnummer", "produit", "producto", "articulo"),
    ),
    "quantity": ("quantity", "qty", "units", "amountunits", "menge", "anzahl", "quantite", "cantidad"),
    "unit_price": ("unitprice", "price", "priceperunit", "stueckpreis", "einzelpreis", "preis", "prix", "precio"),
    "line_total": (
        "linetotal",
        "salesvalue",
        "total",
        "lineamount",
        "revenue",
        "summe",
        "betrag",
        "montant",
        "importe",
    ),
    "timestamp": (
        *(
            "timestamp",
            "eventtime",
            "invoicedate",
            "orderdate",
            "transactiontimestamp",
            "createdat",
            "datetime",
            "time",
        ),
        *("date", "datum", "zeit", "bestelldatum", "fecha", "ts"),
    ),
    "title": ("title", "productname", "itemname", "name", "description", "bezeichnung", "produktname", "nom", "nombre"),
    "long_text": ("longdescription", "details", "text", "beschreibung", "description"),
    "category": (
        *(
            "department",
            "categorypath",
            "category",
            "productcategory",
            "categorycode",
            "kategorie",
            "categorie",
            "categoria",
        ),
        *("subcategory", "producttype"),
    ),
    "brand": ("brand", "manufacturer", "marke", "hersteller", "marque", "marca"),
    "image_url": ("imageurl", "image", "imagelink", "bild", "picture"),
    "available": ("available", "instock", "availability", "active", "verfuegbar"),
    "listed_at": ("listedat", "listed", "publishedat", "createdat"),
}
EVENT_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("view", "pageview", "view_item", "detail", "pv", "product_view", "impression"), "view"),
    **dict.fromkeys(("click", "select_item"), "click"),
    **dict.fromkeys(("cart", "addtocart", "add_to_cart", "add-to-cart", "basket"), "cart"),
    **dict.fromkeys(("purchase", "buy", "transaction", "order", "sale", "checkout", "kauf"), "purchase"),
}
RETURN_WORDS: Final = ("return", "refund", "cancel", "cancellation", "cancelled", "storno", "retoure")
TIME_FORMATS: Final = tuple(
    f"{day}{gap}{clock}".strip()
    for day in (
        "%d.%m.%Y",
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d-%m-%Y",
        "%d.%m.%y",
        "%d/%m/%y",
        "%m/%d/%y",
        "%Y/%m/%d",
        "%Y%m%d",
    )
    for gap, clock in ((" ", "%H:%M:%S"), (" ", "%H:%M"), ("", ""))
)


@dataclass(frozen=True)
class Sample:
    """The beginning of a file, and how it is written."""

    path: Path
    format: str
    columns: Mapping[str, Sequence[str]]
    """Text values by column name, at most `SAMPLE_ROWS`."""
    encoding: str = "utf-8"
    delimiter: str = ","
    roles: dict[str, str] = field(default_factory=dict)
    """Role (a key of `NAMES`) to column name."""

    @property
    def is_events(self) -> bool:
        """Whether its lines are events: things that happened to items at a time."""
        return {"item_id", "timestamp"} <= self.roles.keys() and bool(
            {"user_id", "session_id", "order_id", "event_type"} & self.roles.keys()
        )

    def values(self, role: str) -> list[str]:
        """The sample's values of a role, without empty ones."""
        return [value for value in self.columns.get(self.roles.get(role, ""), ()) if value.strip()]


def propose_mapping(paths: Sequence[Path]) -> str:
    """A mapping, as TOML with comments, for CSV or Parquet exports.

    Raises:
        UserError: a file is missing, of another kind, or none of them looks like events.
    """
    samples = [_sample(path) for path in paths]
    events = [sample for sample in samples if sample.is_events]
    if not events:
        seen = "; ".join(f"{s.path.name}: {', '.join(s.columns)}" for s in samples)
        raise UserError(
            "no file looks like orders or clicks: none has recognisable columns of an item, a time, and a user, session or "
            f"order. Write the mapping by hand (docs/data.md). Columns seen: {seen}"
        )
    catalogues = [sample for sample in samples if not sample.is_events and "item_id" in sample.roles]
    name = _slug(events[0].path.stem).replace("_", " ").title()
    lines = [
        "# Proposed from the files' names and values: check every line. docs/data.md explains each key.",
        "",
        "[shop]",
        f"name = {_text(name)}",
        'currency = "USD"                 # not to be seen in the files',
        "max_rejected_share = 0.2",
    ]
    for sample in events:
        lines += _event_block(sample)
    lines += _catalogue_block(catalogues[0] if catalogues else None, events)
    return "\n".join(lines) + "\n"


def _fold(name: str) -> str:
    folded = name.lower()
    for letter, plain in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss"), ("é", "e"), ("è", "e")):
        folded = folded.replace(letter, plain)
    return re.sub(r"[^a-z0-9]", "", folded)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "shop"


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _sample(path: Path) -> Sample:
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    if path.suffix.lower() in (".parquet", ".pq"):
        frame = pl.scan_parquet(path).head(SAMPLE_ROWS).collect()
        columns = {c: [str(v) if v is not None else "" for v in frame[c].to_list()] for c in frame.columns}
        return Sample(path, "parquet", columns, roles=_roles(columns))
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise UserError(f"{path}: only .csv, .tsv, .txt and .parquet files can be looked at")
    encoding = _encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        text = file.read(SAMPLE_CHARS)
    text = (text[: text.rfind("\n") + 1] or text).removeprefix("\ufeff")
    delimiter = max(",;\t|", key=text.split("\n", 1)[0].count)
    rows = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), SAMPLE_ROWS + 1))
    names = [name.strip() for name in rows[0]] if rows else []
    columns = {name: [row[n].strip() if n < len(row) else "" for row in rows[1:]] for n, name in enumerate(names)}
    return Sample(path, "csv", columns, encoding, delimiter, _roles(columns))


def _encoding(path: Path) -> str:
    """The first encoding that reads the whole file; the last of them reads anything."""
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
    for encoding in ENCODINGS[:-1]:
        try:
            with path.open(encoding=encoding) as text:
                while text.read(SAMPLE_CHARS):
                    pass
        except UnicodeDecodeError:
            continue
        return encoding
    return ENCODINGS[-1]


def _roles(columns: Iterable[str]) -> dict[str, str]:
    """For each role the column whose name fits best; no column has two roles, but for a title that is a description."""
    folded = {_fold(column): column for column in columns}
    roles: dict[str, str] = {}
    for role, names in NAMES.items():
        for name in names:
            if name in folded and folded[name] not in roles.values():
                roles[role] = folded[name]
                break
    if "unit_price" in roles:
        roles.pop("line_total", None)
    return roles


def _time_format(values: Sequence[str]) -> str:
    """`iso`, `unix`, `unix_ms`, or the first format that reads every value."""
    if values and all(re.fullmatch(r"\d{10}(\.\d+)?", value) for value in values):
        return "unix"
    if values and all(re.fullmatch(r"\d{13}", value) for value in values):
        return "unix_ms"
    scores = {"iso": sum(map(_is_iso, values))} | {f: sum(_reads(v, f) for v in values) for f in TIME_FORMATS}
    # The most values read wins, so that junk lines do not decide; among equals the first, day before month.
    return max(scores, key=lambda written: scores[written])


def _is_iso(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return "-" in value[:8]


def _reads(value: str, written: str) -> bool:
    try:
        datetime.strptime(value, written)
    except ValueError:
        return False
    return True


def _decimal_comma(sample: Sample) -> bool:
    prices = sample.values("unit_price") or sample.values("line_total")
    return sum(bool(re.search(r",\d{1,2}$", p)) for p in prices) > len(prices) / 2


def _file_keys(sample: Sample, time_role: str | None) -> list[str]:
    lines = [f"files = {_text(str(sample.path.resolve()))}", f'format = "{sample.format}"']
    if sample.format == "csv":
        lines += [f'encoding = "{sample.encoding}"', f"delimiter = {_text(sample.delimiter)}".replace("\t", "\\t")]
        if _decimal_comma(sample):
            lines.append("decimal_comma = true")
    if time_role and sample.values(time_role):
        lines.append(f'timestamp_format = "{_time_format(sample.values(time_role))}"')
        lines.append('time_zone = "UTC"                # of times without an offset; not to be seen in the file')
    return lines


def _event_block(sample: Sample) -> list[str]:
    lines = ["", "[[events]]", f'source = "{_slug(sample.path.stem)}"', *_file_keys(sample, "timestamp")]
    kinds = sorted({value.lower() for value in sample.values("event_type")})
    known = {kind: EVENT_WORDS[kind] for kind in kinds if kind in EVENT_WORDS}
    if known:
        lines.append("event_types = { " + ", ".join(f'{_text(k)} = "{v}"' for k, v in known.items()) + " }")
        unknown = [kind for kind in kinds if kind not in known and kind not in RETURN_WORDS]
        if unknown:
            lines.append(f"# not mapped, so they go to quarantine: {', '.join(unknown[:20])}")
    else:
        lines.append('event_type = "purchase"')
    lines += ["", "[events.columns]"]
    wanted = [role for role in NAMES if role in sample.roles and role not in _CATALOGUE_ROLES]
    lines += [f"{role} = {_text(sample.roles[role])}" for role in wanted if role != "event_type" or known]
    return lines + _return_block(sample, [kind for kind in kinds if kind in RETURN_WORDS])


_CATALOGUE_ROLES: Final = {"title", "long_text", "category", "brand", "image_url", "available", "listed_at"}


def _return_block(sample: Sample, kinds: Sequence[str]) -> list[str]:
    lines = ["", "[events.returns]", "negative_quantity = true"]
    orders = sample.values("order_id")
    prefixed = [order for order in orders if re.fullmatch(r"[Cc]\d+", order)]
    if prefixed and len(prefixed) < len(orders) / 2:
        lines.append(f'order_id_prefix = "{prefixed[0][0]}"')
    if kinds:
        lines.append("event_types = [" + ", ".join(map(_text, kinds)) + "]")
    return lines


def _catalogue_block(catalogue: Sample | None, events: Sequence[Sample]) -> list[str]:
    sample = catalogue or next((event for event in events if "title" in event.roles), None)
    if sample is None:
        return ["", "# No catalogue: items are shown by their ids."]
    lines = ["", "[catalogue]", *_file_keys(sample, "listed_at"), f"item_id = {_text(sample.roles['item_id'])}"]
    roles = sample.roles
    if "title" in roles:
        lines.append(f"title = [{_text(roles['title'])}]")
    if "long_text" in roles:
        lines.append(f"description = {_text(roles['long_text'])}")
    if "category" in roles:
        lines.append(f"category = [{_text(roles['category'])}]       # several, the broadest first")
    if "brand" in roles:
        lines.append(f"brand = {_text(roles['brand'])}")
    # Where the orders are the catalogue, a line's price is what was paid, not what is asked.
    wanted = [("unit_price", "price")] if catalogue else []
    lines += [
        f"{key} = {_text(roles[role])}"
        for role, key in [*wanted, ("image_url", "image_url"), ("available", "available"), ("listed_at", "listed_at")]
        if role in roles
    ]
    lines.append(
        f"complete = {'true' if catalogue else 'false'}                  # whether what is not listed is not for sale"
    )
    return lines
