"""What a request may say, checked once, with errors that name the field."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from recsys.events import Surface

MAX_EVENTS: Final = 1_000
MAX_GA4_ITEMS: Final = 5_000
"""Of all GA4 events of a body: each item is an event of its own. GA4 itself takes 25 events of 200 items."""
MAX_ITEMS: Final = 1_000
MAX_PRICE_CENTS: Final = 10**12
MAX_ID: Final = 256
MAX_QUERY: Final = 200
"""Characters of a search."""
MAX_WIDGETS: Final = 10
"""Of one page."""

Problem = dict[str, str]
"""What is wrong with a `field`, as a `message`."""
Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID, strip_whitespace=True)]


def _storable(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold the character 0")
    return value


StoredId = Annotated[Id, AfterValidator(_storable)]
"""An id that goes into the database."""


class _Strict(BaseModel):
    # An error that is not caught ends up in the log of the process: it must not say what came in.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Filters(_Strict):
    """Which items may be in the answer."""

    category: str | None = Field(
        default=None, min_length=1, max_length=512, description="A category path or a beginning of one."
    )
    brand: str | None = Field(default=None, min_length=1, max_length=MAX_ID)
    min_price_cents: int | None = Field(default=None, ge=0)
    max_price_cents: int | None = Field(default=None, ge=0)
    exclude_item_ids: tuple[Id, ...] = Field(default=(), max_length=1_000)
    only_new: bool = Field(default=False, description="Leave out what the shopper has bought.")


NO_FILTERS: Final = Filters()


class _Shopper(_Strict):
    """Who asks."""

    consent: bool = Field(
        default=True,
        description="false: nothing of this request is kept, and nothing that is known of the shopper is read.",
    )
    user_id: Id | None = None
    session_id: Id | None = None


class _Context(_Strict):
    """What the answer is to suit."""

    item_id: Id | None = Field(default=None, description="The item whose page is shown.")
    cart: tuple[Id, ...] = Field(default=(), max_length=200)
    region: Id | None = Field(default=None, description="Where the shopper is; where the user usually is, by default.")
    segments: tuple[Id, ...] = Field(
        default=(),
        max_length=32,
        description="What a shopper without a history told of themselves, as `attribute=value`; "
        "what the user export says of the user, by default.",
    )
    filters: Filters = NO_FILTERS


class _Place(_Strict):
    """Where items are to stand, and how many."""

    surface: Surface | None = Field(default=None, description="home, or similar where an item_id is given, by default.")
    k: int = Field(default=12, ge=1, description="How many items; at most RECSYS_MAX_K.")


class RecommendRequest(_Context, _Place, _Shopper):
    """One question. Without user, session and item it is answered for a stranger.

    Where consent is refused it has no user and no session, whatever was sent: the ids reach nothing that could keep them.
    """

    explain: bool = Field(default=False, description="Say of each item how its score comes about; slow.")

    @model_validator(mode="after")
    def _whole(self) -> RecommendRequest:
        if not self.consent:
            self.__dict__.update(user_id=None, session_id=None)  # before anybody has seen it
        if self.surface in (Surface.SIMILAR, Surface.BOUGHT_TOGETHER) and self.item_id is None:
            raise ValueError(f"surface {self.surface!s} needs an item_id")
        return self

    @property
    def where(self) -> Surface:
        """The surface asked for, or the one that the request implies."""
        return self.surface or (Surface.SIMILAR if self.item_id is not None else Surface.HOME)


class Widget(_Context, _Place):
    """One list of a page. What it names holds for it instead of what the page says."""

    name: Id


class PageRequest(_Context, _Shopper):
    """Several questions of one shopper, answered together."""

    widgets: tuple[Widget, ...] = Field(min_length=1, max_length=MAX_WIDGETS)

    def question(self, widget: Widget) -> RecommendRequest:
        """What a widget asks, with what it leaves to the page.

        Raises:
            ValidationError: the two together cannot be, see `RecommendRequest`.
        """
        told = {name: getattr(self, name) for name in self.model_fields_set - {"widgets"}}
        own = {name: getattr(widget, name) for name in widget.model_fields_set - {"name"}}
        return RecommendRequest.model_validate({**told, **own})


class PageError(ValueError):
    """A page that cannot be; `problems` are those of a validation error, with widgets by their names."""

    def __init__(self, found: list[Problem]) -> None:
        super().__init__(in_words(found))
        self.problems = found


def read_page(content: object) -> dict[str, RecommendRequest]:
    """The question of each widget of a page, in their order.

    Raises:
        PageError: something in it is wrong; the message names the widget.
    """
    try:
        page = PageRequest.model_validate(content)
    except ValidationError as error:
        raise PageError(_by_name(problems(error), content)) from None
    questions: dict[str, RecommendRequest] = {}
    found: list[Problem] = []
    for widget in page.widgets:
        field = f"widgets.{widget.name}"
        if widget.name in questions:
            found.append({"field": field, "message": "another widget of this page has the same name"})
        try:
            questions[widget.name] = page.question(widget)
        except ValidationError as error:
            found += [{**one, "field": f"{field}.{one['field']}".rstrip(".")} for one in problems(error)]
    if found:
        raise PageError(found)
    return questions


def _by_name(found: list[Problem], content: object) -> list[Problem]:
    """The same problems, with a widget's name in place of its number where it has one."""
    widgets = content.get("widgets") if isinstance(content, dict) else None
    names = [one.get("name") if isinstance(one, dict) else None for one in widgets] if isinstance(widgets, list) else []
    # Of a list whose members are wrong the length is said to be wrong too: it counts those that are right.
    members = [problem for problem in found if problem["field"].startswith("widgets.")]
    named = []
    for problem in [problem for problem in found if not members or problem["field"] != "widgets"]:
        field = problem["field"].split(".")
        if field[0] == "widgets" and len(field) > 1 and isinstance(name := names[int(field[1])], str) and name.strip():
            field[1] = name.strip()
        named.append({**problem, "field": ".".join(field)})
    return named


FILTER_NAMES: Final = frozenset(Filters.model_fields)
_LISTS: Final = frozenset({"cart", "exclude_item_ids", "segments"})


def pairs_of(query: bytes) -> list[tuple[str, str]]:
    """The names and values of a query string as Starlette reads them, in their order."""
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True)
    parted = (pair.partition("=") for pair in text.split("&") if pair)
    return [(name, value) for name, _, value in parted]


def request_from_query(pairs: list[tuple[str, str]]) -> RecommendRequest:
    """The request that a query string's names and values make; a repeated `cart`, `segments` or `exclude_item_ids` adds up.

    Raises:
        ValidationError: see `RecommendRequest`.
    """
    flat: dict[str, Any] = {}
    filters: dict[str, Any] = {}
    for name, value in pairs:
        target = filters if name in FILTER_NAMES else flat
        if name in _LISTS:
            target.setdefault(name, []).append(value)
        else:
            target[name] = value
    if filters:
        flat["filters"] = filters
    return RecommendRequest.model_validate(flat)


class _Told(_Strict):
    """Something that happened in the shop."""

    event_id: StoredId | None = Field(default=None, description="Idempotency key: the same id is counted once.")
    user_id: StoredId | None = None
    session_id: StoredId | None = None
    occurred_at: datetime | None = Field(default=None, description="ISO 8601; now where absent; UTC without an offset.")


class Event(_Told):
    """Something a shopper did with an item."""

    type: Literal["view", "click", "cart", "purchase", "hide", "return"]
    item_id: StoredId
    quantity: int = Field(default=1, ge=1, le=1_000_000)
    price_cents: int | None = Field(default=None, ge=0, le=MAX_PRICE_CENTS)
    order_id: StoredId | None = None
    request_id: StoredId | None = Field(default=None, description="Of the answer that the event follows from.")
    surface: Surface | None = None
    region: StoredId | None = Field(default=None, description="Where the shopper was: a store, a town, a country.")

    @model_validator(mode="after")
    def _somebody(self) -> Event:
        if self.user_id is None and self.session_id is None:
            raise ValueError("give a user_id or a session_id")
        return self


class Render(_Told):
    """An answer was really shown: it counts as an exposure from here on."""

    type: Literal["render"]
    request_id: StoredId = Field(description="Of the answer.")
    items: tuple[StoredId, ...] | None = Field(
        default=None, max_length=1_000, description="Those that were shown; all, by default."
    )


MAX_VALUES: Final = 64
MAX_VALUE: Final = 1_000
Cents = Annotated[int, Field(strict=True, ge=0, le=MAX_PRICE_CENTS)]
"""A price: neither text nor true, which would be 1."""


def _attribute(value: Any) -> Any:
    members = value if isinstance(value, list) else [value]
    fits = all(
        isinstance(one, (bool, int, float)) or (isinstance(one, str) and len(one) <= MAX_VALUE) for one in members
    )
    if not fits or len(members) > MAX_VALUES:
        raise ValueError(
            f"must be text of at most {MAX_VALUE:,} characters, a number, true or false, or a list of at most {MAX_VALUES} of them"
        )
    return value


class Item(_Strict):
    """An item as the catalogue describes it; what is absent is unknown."""

    item_id: Id
    title: str | None = Field(default=None, max_length=1_000, description="The item id where there is none.")
    description: str | None = Field(default=None, max_length=20_000)
    category: str | None = Field(default=None, max_length=512, description="From the broadest level down: `A > B > C`.")
    brand: str | None = Field(default=None, max_length=MAX_ID)
    price_cents: Cents | None = None
    image_url: str | None = Field(default=None, max_length=2_048)
    attributes: dict[Id, Annotated[Any, AfterValidator(_attribute)]] = Field(
        default_factory=dict, max_length=64, description="Strings, numbers, booleans, or lists of them."
    )
    available: bool = True

    @field_validator("title", "description", "brand", "image_url")
    @classmethod
    def _without_blanks(cls, value: str | None) -> str | None:
        return (value or "").strip() or None

    @field_validator("category")
    @classmethod
    def _as_path(cls, value: str | None) -> str | None:
        levels = [level.strip() for level in (value or "").split(">")]
        return " > ".join(filter(None, levels)) or None


class ItemFilter(_Strict):
    """Which items a bulk update changes: those that fit everything that is given."""

    item_ids: tuple[Id, ...] | None = Field(default=None, min_length=1, max_length=10_000)
    category: str | None = Field(default=None, min_length=1, max_length=512)
    brand: str | None = Field(default=None, min_length=1, max_length=MAX_ID)
    min_price_cents: Cents | None = None
    max_price_cents: Cents | None = None
    available: bool | None = None

    @model_validator(mode="after")
    def _not_everything(self) -> ItemFilter:
        if not self.model_dump(exclude_none=True):
            raise ValueError("an empty filter would change every item: name at least one condition")
        return self


class ItemChange(_Strict):
    """What a bulk update does to them."""

    available: bool | None = None
    price_cents: Cents | None = None
    price_factor: float | None = Field(default=None, strict=True, gt=0, le=1_000, description="The price times this.")

    @model_validator(mode="after")
    def _something(self) -> ItemChange:
        if not self.model_dump(exclude_none=True):
            raise ValueError("say what to change: available, price_cents or price_factor")
        if self.price_cents is not None and self.price_factor is not None:
            raise ValueError("give price_cents or price_factor, not both")
        return self


class BulkUpdate(_Strict):
    """One change of many items."""

    filter: ItemFilter
    set: ItemChange


_WORDS: Final = {
    "extra_forbidden": "unknown name",
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
}
"""By type of error, where pydantic's own words are not a shop's."""


def problems(error: ValidationError) -> list[Problem]:
    """A validation error as field and message, fit for an answer."""
    found = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        # The name of an attribute is marked where it is the name that is wrong.
        field = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        message = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        found.append({"field": field, "message": message})
    return found


def in_words(error: ValidationError | list[Problem]) -> str:
    """A validation error, or its problems, as one line."""
    found = problems(error) if isinstance(error, ValidationError) else error
    return "; ".join(f"{p['field']}: {p['message']}" if p["field"] else p["message"] for p in found)
