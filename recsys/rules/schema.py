"""What a rule file may say, checked once: every kind of rule, its selectors and its conditions. Documented in docs/rules.md."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from recsys.events import Surface

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MAX_POSITION: Final = 1_000

Text = Annotated[str, StringConstraints(min_length=1, max_length=512, strip_whitespace=True)]


def _listed(value: Any) -> Any:
    """One value is a list of one."""
    return value if isinstance(value, (list, tuple)) or value is None else (value,)


def _midnight(value: Any) -> Any:
    """A day is its midnight."""
    return datetime.combine(value, time()) if type(value) is date else value


def _in_utc(value: datetime) -> datetime:
    """What names no zone is UTC."""
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1, max_length=10_000)]
Surfaces = Annotated[tuple[Surface, ...], BeforeValidator(_listed), Field(min_length=1)]
Moment = Annotated[datetime, BeforeValidator(_midnight), AfterValidator(_in_utc)]
Hour = Annotated[int, Field(ge=0, le=24)]
Cents = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Items(_Strict):
    """Which items: those that fit everything that is given; of several ids, categories or brands one is enough."""

    ids: Texts | None = None
    category: Texts | None = Field(default=None, description="A path, `A > B`, with all below it.")
    brand: Texts | None = None
    min_price_cents: Cents | None = None
    max_price_cents: Cents | None = None
    new: Literal[True] | None = Field(default=None, description="New arrivals, and what joined since the training.")
    unknown: Annotated[
        tuple[Literal["price", "category", "brand"], ...] | None, BeforeValidator(_listed), Field(min_length=1)
    ] = Field(default=None, description="Items of which any of these is not known.")

    @model_validator(mode="after")
    def _something(self) -> Items:
        if not self.model_dump(exclude_none=True):
            raise ValueError(
                "names no items: give ids, category, brand, min_price_cents, max_price_cents, new or unknown"
            )
        low, high = self.min_price_cents, self.max_price_cents
        if low is not None and high is not None and low > high:
            raise ValueError("min_price_cents is above max_price_cents: no price fits")
        return self


class When(_Strict):
    """Which requests a rule is for: those that fit everything that is given. Times are UTC."""

    surfaces: Surfaces | None = None
    shopper: Literal["known", "unknown"] | None = Field(default=None, description="known: with a history.")
    min_events: int | None = Field(default=None, ge=0, description="In the shopper's history, at least.")
    max_events: int | None = Field(default=None, ge=0)
    segments: Texts | None = Field(default=None, description="`attribute=value`; one is enough.")
    regions: Texts | None = None
    since: Moment | None = Field(default=None, alias="from", description="From this moment on.")
    until: Moment | None = Field(default=None, description="Before this moment.")
    days: Annotated[
        tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] | None,
        BeforeValidator(_listed),
        Field(min_length=1),
    ] = None
    hours: tuple[Hour, Hour] | None = Field(
        default=None, description="[from, until), over midnight where from is later."
    )
    item: Items | None = Field(default=None, description="The item whose page is shown.")

    @model_validator(mode="after")
    def _possible(self) -> When:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("from is not before until: no moment fits")
        if self.hours is not None and self.hours[0] == self.hours[1]:
            raise ValueError("hours are from and until, which must differ: leave hours out for the whole day")
        if self.min_events is not None and self.max_events is not None and self.min_events > self.max_events:
            raise ValueError("min_events is above max_events: no history fits")
        return self


ALWAYS: Final = When()


class _Rule(_Strict):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    enabled: bool = True
    when: When = ALWAYS
    on_error: Literal["closed", "open"] = Field(
        default="open", description="What happens where it cannot be told whether the rule holds; see docs/rules.md."
    )

    @property
    def closed(self) -> bool:
        """Whether an item is hidden where the rule cannot be evaluated."""
        return self.on_error == "closed"


class _Gate(_Rule):
    items: Items
    reason: Literal["legal", "stock", "merchandising"] = "merchandising"

    @model_validator(mode="before")
    @classmethod
    def _closed_by_default(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("reason") in ("legal", "stock"):
            return {"on_error": "closed", **value}
        return value


class Exclude(_Gate):
    """Never these items."""

    kind: Literal["exclude"]


class Only(_Gate):
    """None but these items. Several such rules all hold."""

    kind: Literal["only"]


class Boost(_Rule):
    """The score of these items counts `factor` times."""

    kind: Literal["boost"]
    items: Items
    factor: float = Field(gt=1, le=1_000)


class Bury(_Rule):
    """The score of these items counts `factor` times."""

    kind: Literal["bury"]
    items: Items
    factor: float = Field(ge=0, lt=1)


class Pin(_Rule):
    """One item at one position, where it may be shown at all."""

    kind: Literal["pin"]
    item_id: Text
    position: int = Field(ge=1, le=MAX_POSITION)
    priority: int = Field(
        default=0, description="Of pins at one position the highest stands, then the first in the file."
    )


class Quota(_Rule):
    """At least so many of these items, where there are so many."""

    kind: Literal["quota"]
    items: Items
    at_least: int = Field(ge=1, le=MAX_POSITION)
    priority: int = Field(default=0, description="The highest takes its places first.")


class Cap(_Rule):
    """At most so many: of each brand, of each category down to `level`, or of `items` altogether."""

    kind: Literal["cap"]
    at_most: int = Field(ge=1, le=MAX_POSITION)
    by: Literal["brand", "category"] | None = None
    level: int | None = Field(
        default=None, ge=1, le=20, description="Of the category path, 1 the broadest; the whole path."
    )
    items: Items | None = Field(default=None, description="It counts only these.")

    @model_validator(mode="after")
    def _of_something(self) -> Cap:
        if self.by is None and self.items is None:
            raise ValueError("say what is counted: give by, items, or both")
        if self.level is not None and self.by != "category":
            raise ValueError("level goes with by = 'category'")
        return self


class Price(_Rule):
    """On an item's page: none but items whose price lies between these shares of its price."""

    kind: Literal["price"]
    at_least: float | None = Field(default=None, ge=0, le=1_000)
    at_most: float | None = Field(default=None, gt=0, le=1_000)

    @model_validator(mode="after")
    def _range(self) -> Price:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both, as shares of the viewed item's price")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is above at_most: no price fits")
        return self


class NotInCart(_Rule):
    """Nothing that lies in the cart. The service holds to that without a rule; this one says so for other callers."""

    kind: Literal["not_in_cart"]


class NotBought(_Rule):
    """Nothing that the shopper bought in the last `days`, unless it is bought again and again."""

    kind: Literal["not_bought"]
    days: float = Field(gt=0, le=10_000)
    replenishable: Items | None = Field(
        default=None, description="What is bought again; what the shopper has bought twice, by default."
    )


Rule = Annotated[
    Exclude | Only | Boost | Bury | Pin | Quota | Cap | Price | NotInCart | NotBought, Field(discriminator="kind")
]
KINDS: Final = ("exclude", "only", "boost", "bury", "pin", "quota", "cap", "price", "not_in_cart", "not_bought")
