"""The simulator's constants: one checked-in file, `constants.toml`, and its shape. What each means and where it comes from: docs/simulator.md."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

CONSTANTS: Final = Path(__file__).with_name("constants.toml")


def _require_shares(part: Any, *names: str) -> None:
    for name in names:
        if not 0 <= (value := getattr(part, name)) <= 1:
            raise ValueError(f"{name} is {value}: a share lies between 0 and 1")


@dataclass(frozen=True, slots=True)
class Clicks:
    """What makes a shopper click."""

    random_ctr: float
    """Clicks per shown item where items are drawn at random from the catalogue."""
    position_effect: float
    """Place p of a widget is examined in proportion to `p ** -position_effect`."""
    taste_share: float
    """The share of taste in what makes a random item attractive: the one parameter that is fitted to a gain."""
    curiosity: float
    """The share of a random item's clicks that nothing about the item explains."""
    price_effect: float
    """An item at x times the median price of its type attracts `x ** -price_effect` times as much."""
    novelty: float
    """An item listed within `novel_days` attracts so many times as much."""
    novel_days: float
    fatigue: float
    """Each time that the shopper was shown it before leaves so much of an item's attraction."""
    max_fatigue: int
    """More times than that change nothing."""
    taste_of_type: float
    """What a purchase of an item tells of another one of its type, relative to what it tells of itself."""
    taste_of_brand: float
    """The same of an item of its brand in its aisle."""
    taste_of_price: float
    """The same of an item of its price range in its aisle."""

    def __post_init__(self) -> None:
        _require_shares(self, "random_ctr", "taste_share", "curiosity", "fatigue")


@dataclass(frozen=True, slots=True)
class Purchases:
    """What follows a click, for an item that was not going to be bought anyway."""

    conversion_floor: float
    """Chance that a click leads to a purchase where there is no taste for the item."""
    conversion_top: float
    """The same where taste is 1 or more; in between it rises evenly."""
    carts_per_purchase: float
    """So many times as likely is it that the item is put in the cart."""

    def __post_init__(self) -> None:
        _require_shares(self, "conversion_floor", "conversion_top")
        if self.carts_per_purchase < 1:
            raise ValueError(f"carts_per_purchase is {self.carts_per_purchase}: who buys has a cart")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who comes, and what they look at."""

    browsing_visits: float
    """Visits without a purchase for each with one."""
    anonymous_share: float
    """Visits whose shopper is not logged in."""
    product_pages: int
    """Of a visit at most, each with a list of similar items."""
    home_k: int
    """Places of each of the home page's widgets."""
    page_share: float
    """Visits whose home page has all of `home_widgets`, asked for together; the others have the first alone."""
    home_widgets: tuple[str, ...]
    """Surfaces, from top to bottom."""
    page_k: int
    """Places of the lists on product pages and in the cart."""

    def __post_init__(self) -> None:
        _require_shares(self, "anonymous_share", "page_share")
        if len(set(self.home_widgets)) != len(self.home_widgets) or not self.home_widgets:
            raise ValueError(f"home_widgets are {self.home_widgets}: give at least one surface, and none twice")


@dataclass(frozen=True, slots=True)
class Mess:
    """What goes wrong between a browser and the service: shares of events, but for bots."""

    late: float = 0.0
    """Sent `late_hours` later."""
    late_hours: float = 6.0
    duplicate: float = 0.0
    """Sent twice, with one event_id."""
    out_of_order: float = 0.0
    """Share of batches that arrive in reverse."""
    skewed: float = 0.0
    """Share of visits whose clock is wrong by up to `skew_minutes`, either way."""
    skew_minutes: float = 10.0
    missing_id: float = 0.0
    """Without an event_id, or without the request_id that it follows from."""
    bots: float = 0.0
    """Visits of bots for each of a shopper."""
    bot_clicks: float = 0.5
    """Share of shown items that a bot follows."""

    def __post_init__(self) -> None:
        _require_shares(self, "late", "duplicate", "out_of_order", "skewed", "missing_id", "bot_clicks")


CLEAN: Final = Mess()


@dataclass(frozen=True, slots=True)
class Constants:
    """Everything that the simulator assumes."""

    clicks: Clicks
    purchases: Purchases
    traffic: Traffic
    mess: Mess = field(default_factory=Mess)

    @classmethod
    def read(cls, path: Path = CONSTANTS) -> Self:
        """The constants in a TOML file, one table for each part.

        Raises:
            ValueError: a constant is missing, unknown or cannot be.
        """
        tables = tomllib.loads(path.read_text())
        parts = {"clicks": Clicks, "purchases": Purchases, "traffic": Traffic, "mess": Mess}
        if set(tables) != set(parts):
            raise ValueError(f"{path} has the tables {sorted(tables)}, needed are {sorted(parts)}")
        return cls(**{name: _made(part, tables[name], f"{path}: {name}") for name, part in parts.items()})


def _made(part: type[Any], values: dict[str, Any], where: str) -> Any:
    names = {one.name for one in fields(part)}
    if set(values) != names:
        raise ValueError(f"{where} has {sorted(values)}, needed are {sorted(names)}")
    # TOML has arrays; constants do not change.
    return part(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def with_clicks(constants: Constants, **changes: Any) -> Constants:
    """The same constants with others in what makes a shopper click."""
    return replace(constants, clicks=replace(constants.clicks, **changes))
