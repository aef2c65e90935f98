"""The mapping: one TOML file that says how a shop's exports name things. `docs/data.md` is its reference."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from recsys.errors import UserError
from recsys.events import EventType


class MappingError(UserError):
    """A mapping file is missing, is not TOML, or says something that cannot be."""


def _known_zone(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{zone!r} is no time zone; write it as 'UTC' or 'Europe/Berlin'") from error
    return zone


Format = Literal["csv", "parquet", "jsonl"]
TimeZone = Annotated[str, AfterValidator(_known_zone)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", description="lower-case letters, digits and underscores")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Files(_Strict):
    """Where a source's files are and how they are written."""

    files: str
    """Glob, relative to the mapping file or to `shop.package`."""
    format: Format = "csv"
    encoding: str = "utf-8"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    decimal_comma: bool = False
    timestamp_format: str = "iso"
    """`iso`, `unix`, `unix_ms`, or a strptime format such as `%d.%m.%Y %H:%M`."""
    time_zone: TimeZone = "UTC"
    """Of times without an offset of their own."""


class EventColumns(_Strict):
    """Which column holds what. Only `item_id` and `timestamp` are needed."""

    item_id: str
    timestamp: str
    event_id: str | None = None
    event_type: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    order_id: str | None = None
    quantity: str | None = None
    unit_price: str | None = None
    line_total: str | None = None
    received_at: str | None = None
    request_id: str | None = None
    surface: str | None = None
    region: str | None = None
    """Where the shopper was: a store, a town, a country; demand differs between them."""


class Returns(_Strict):
    """How a line says that something came back."""

    negative_quantity: bool = True
    order_id_prefix: str | None = None
    event_types: tuple[str, ...] = ()
    """Values of the event type column."""


class EventSource(Files):
    """An export of orders or of a clickstream."""

    source: Name
    columns: EventColumns
    event_type: EventType | None = None
    """Of every line, where no column says it."""
    event_types: dict[str, EventType] = Field(default_factory=dict)
    """From the event type column's values, in any case, to ours."""
    price_scale: float = Field(default=1.0, gt=0)
    """What a price is multiplied by to be in the currency's main unit: 0.01 where it is in cents."""
    missing_users: tuple[str, ...] = ("", "0", "null", "NULL", "None", "nan")
    """Values of the user column that mean nobody."""
    returns: Returns = Returns()

    @model_validator(mode="after")
    def _one_way_to_each_fact(self) -> EventSource:
        if (self.columns.event_type is None) == (self.event_type is None):
            raise ValueError("give either event_type (of every line) or columns.event_type, not both or neither")
        if self.columns.unit_price and self.columns.line_total:
            raise ValueError("give either columns.unit_price or columns.line_total, not both")
        return self


class CatalogueSource(Files):
    """An export of the catalogue; may be the orders' own files, where only those name the items."""

    item_id: str
    title: tuple[str, ...] = ()
    """Columns, joined by a space."""
    description: str | None = None
    category: tuple[str, ...] = ()
    """Columns, the broadest first."""
    brand: str | None = None
    price: str | None = None
    image_url: str | None = None
    available: str | None = None
    """Column that says whether the item may be sold; 0, false, no, n and empty mean that it may not."""
    listed_at: str | None = None
    attributes: tuple[str, ...] = ()
    """Further columns to keep."""
    complete: bool = True
    """Whether what is not listed may not be recommended."""


class UserSource(Files):
    """An export of what is known of shoppers."""

    user_id: str
    attributes: tuple[str, ...] = ()


class Attribution(_Strict):
    """For how many seconds after it was seen in an answer what is done with an item follows from there."""

    click: int = Field(default=3_600, gt=0)
    cart: int = Field(default=86_400, gt=0)
    purchase: int = Field(default=7 * 86_400, gt=0)
    hide: int = Field(default=3_600, gt=0)
    """A shopper does not want to see an item again."""
    returned: int = Field(default=30 * 86_400, gt=0, alias="return")


class Shop(_Strict):
    """The shop itself."""

    name: str
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    max_rejected_share: float = Field(default=0.2, ge=0, le=1)
    """Above this share of unusable lines, `recsys tables` stops."""
    attribution: Attribution = Attribution()
    package: str | None = None
    """An installed Python package whose folder the files are in."""


class Mapping(_Strict):
    """A whole mapping file."""

    shop: Shop
    events: tuple[EventSource, ...] = Field(min_length=1)
    catalogue: CatalogueSource | None = None
    users: UserSource | None = None

    @model_validator(mode="after")
    def _different_names(self) -> Mapping:
        names = [event.source for event in self.events]
        if len(set(names)) != len(names):
            raise ValueError(f"every source needs a name of its own, found {names}")
        return self


def read_mapping(path: Path) -> Mapping:
    """Read and check a mapping file.

    Raises:
        MappingError: it is missing, not TOML, or does not fit; the message names every key that does not.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MappingError(f"{path} is missing; `recsys ingest --propose FILE` writes a first one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError(f"{path} is not TOML: {error}") from error
    try:
        return Mapping.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(
            f"  {'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}" for problem in error.errors()
        )
        raise MappingError(f"{path} does not fit (docs/data.md lists every key):\n{problems}") from error


def find_files(mapping_path: Path, mapping: Mapping, source: Files) -> Sequence[Path]:
    """The source's files, sorted.

    Raises:
        MappingError: the package is not installed, or nothing matches the glob.
    """
    base = mapping_path.resolve().parent
    if mapping.shop.package is not None:
        spec = importlib.util.find_spec(mapping.shop.package)
        if spec is None or not spec.submodule_search_locations:
            raise MappingError(f"the package {mapping.shop.package!r} is not installed: pip install '.[train]'")
        base = Path(spec.submodule_search_locations[0])
    pattern = Path(source.files)
    found = (
        sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
        if pattern.is_absolute()
        else sorted(base.glob(source.files))
    )
    if not found:
        raise MappingError(f"{source.files!r} matches no file in {base}: correct `files` in {mapping_path}")
    return found
