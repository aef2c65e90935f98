"""Visits one after the other: pages are asked for, looked at, clicked, and what happened is reported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from recsys.events import EventType, Surface
from recsys.simulation.clicks import ClickModel
from recsys.simulation.constants import Constants
from recsys.simulation.log import Ledger, Log, Look
from recsys.simulation.mess import RENDER, Courier
from recsys.simulation.shops import Answer, Event, Request, Shop
from recsys.simulation.traffic import NO_BASKET, Visits
from recsys.simulation.world import Floats, Ints

PAGE_SECONDS: Final = 20
CLICK_SECONDS: Final = 5
MAX_CART: Final = 200
NO_EFFECT: Final[Mapping[str, float]] = MappingProxyType({})
NO_FILTERS: Final[Mapping[str, Any]] = MappingProxyType({})


def by_arm(answer: Answer) -> str:
    """The arms that an answer names, of one experiment as a rule; nothing without."""
    return ",".join(answer.get("arms", {}).values())


@dataclass(frozen=True, slots=True)
class _Widget:
    surface: Surface
    places: int
    more: Request


@dataclass(slots=True)
class _Visit:
    """A visit under way."""

    number: int
    shopper: int
    second: float
    who: Request
    rng: np.random.Generator
    skew: float
    """Seconds that the browser's clock is ahead."""
    basket: Ints
    """Rows that are bought whatever is shown."""
    bought: set[int]
    """Those, and what was bought because it was shown."""
    sent: int = 0
    clicked: dict[int, str] = field(default_factory=dict)
    """The answer in which an item was first clicked."""
    extra: list[int] = field(default_factory=list)


class Simulation:
    """Sends a world's visits to a shop."""

    def __init__(
        self,
        model: ClickModel,
        constants: Constants,
        visits: Visits,
        shop: Shop,
        *,
        label: Callable[[Answer], str] = by_arm,
        confirm: bool = True,
        more_clicks: Mapping[str, float] = NO_EFFECT,
        filters: Mapping[str, Any] = NO_FILTERS,
    ) -> None:
        """`label` says under which name an answer's figures are kept; without `confirm` no renders are reported.

        `more_clicks`: by label, an effect that is put in on purpose: shoppers click such answers so many times as often.
        `filters` are asked for in every request: a campaign, where the shop shows some of its items only.
        """
        self._model = model
        self._world = model.world
        self._traffic = constants.traffic
        self._mess = constants.mess
        self._visits = visits
        self._shop = shop
        self._courier = Courier(shop, constants.mess, visits.seed)
        self._label = label
        self._confirm = confirm
        self._more_clicks = more_clicks
        self._filters = dict(filters)
        self._row = {item_id: row for row, item_id in enumerate(self._world.items.ids)}
        self._renders: defaultdict[int, dict[int, int]] = defaultdict(dict)
        """By shopper and item, how often it was shown."""
        self._ledger = Ledger()
        self._skew = _skews(visits, constants.mess.skewed, constants.mess.skew_minutes)

    def run(self, track: Callable[[range], Iterable[int]] = iter) -> Log:
        """All visits in order of time; `track` may show how far it is.

        Raises:
            ShopError: the shop did not answer.
            ValueError: it showed an item that is not in the catalogue.
        """
        self.advance(track(range(len(self._visits))))
        return self.finish()

    def advance(self, numbers: Iterable[int]) -> None:
        """Those visits, which come next in order of time.

        Raises:
            ShopError, ValueError: see `run`.
        """
        for number in numbers:
            self._visit(number)

    def finish(self) -> Log:
        """Bring what was late; what happened in the visits so far, which were all."""
        self._courier.finish(float(self._world.until))
        return self._ledger.close(self._world, self._visits, self._courier.counts)

    def _visit(self, number: int) -> None:
        visit = self._begin(number)
        now = visit.second
        for widgets in self._plan(visit):
            self._look(visit, widgets, now)
            now += PAGE_SECONDS
        self._ledger.payments.append(self._pay(visit, now))

    def _begin(self, number: int) -> _Visit:
        visits, baskets = self._visits, self._world.baskets
        shopper, basket = int(visits.shopper[number]), int(visits.basket[number])
        items = baskets.items[baskets.lines(basket)] if basket != NO_BASKET else baskets.items[:0]
        who: Request = {"session_id": f"sim-{visits.seed}-{number}"}
        if not visits.anonymous[number]:
            who["user_id"] = str(self._world.shopper_ids[shopper])
        # A stream of its own, whatever happened in other visits.
        rng = np.random.Generator(np.random.Philox(key=np.array([visits.seed, number], dtype=np.uint64)))
        second, skew = float(visits.second[number]), float(self._skew[number])
        return _Visit(number, shopper, second, who, rng, skew, items, set(items.tolist()))

    def _plan(self, visit: _Visit) -> Iterator[list[_Widget]]:
        """The pages, each a list of widgets: home, product pages of what the shopper came for, the cart where there is one."""
        traffic, ids = self._traffic, self._world.items.ids
        shown = traffic.home_widgets if visit.rng.random() < traffic.page_share else traffic.home_widgets[:1]
        yield [_Widget(Surface(surface), traffic.home_k, {}) for surface in shown]
        wanted = visit.basket if len(visit.basket) else self._wants(visit.shopper)
        first = visit.rng.integers(len(wanted), size=traffic.product_pages)
        for row in dict.fromkeys(wanted[first].tolist()):
            yield [_Widget(Surface.SIMILAR, traffic.page_k, {"item_id": ids[row]})]
        if len(visit.basket):
            cart = dict.fromkeys(visit.basket.tolist())
            yield [_Widget(Surface.CART, traffic.page_k, {"cart": [ids[row] for row in cart][:MAX_CART]})]

    def _wants(self, shopper: int) -> Ints:
        """What a shopper buys in the window."""
        tastes = self._world.tastes
        own = tastes.traits[tastes.offsets[shopper] : tastes.offsets[shopper + 1]]
        return own[: own.searchsorted(len(self._world.items))]

    def _look(self, visit: _Visit, widgets: list[_Widget], now: float) -> None:
        """Ask for a page, look at it, click, put in the cart, decide to buy; report all but the purchase."""
        events = []
        for widget, answer in zip(widgets, self._ask(visit, widgets, now), strict=True):
            if self._confirm:
                events.append(self._event(visit, RENDER, now, request_id=answer["request_id"]))
            look = self._seen(visit, widget, answer, now)
            self._ledger.looks.append(look)
            events += self._follow(visit, look, answer["request_id"], now)
        self._courier.send(events, now)

    def _ask(self, visit: _Visit, widgets: list[_Widget], now: float) -> list[Answer]:
        """The answer of each widget; several are asked for together."""
        more = {"filters": self._filters} if self._filters else {}
        asked = [{"surface": str(widget.surface), "k": widget.places, **widget.more, **more} for widget in widgets]
        if len(asked) == 1:
            return [self._shop.recommend({**visit.who, **asked[0]}, now)]
        named = [{"name": question["surface"], **question} for question in asked]
        page = self._shop.page({**visit.who, "widgets": named}, now)
        return [page[widget["name"]] for widget in named]

    def _seen(self, visit: _Visit, widget: _Widget, answer: Answer, now: float) -> Look:
        """What a shopper does with an answer; they have then seen its items once more."""
        rows, label = self._rows(answer), self._label(answer)
        click_draw, follow_draw = visit.rng.random((2, widget.places))[:, : len(rows)]
        is_bot = self._visits.bot[visit.number]
        taste, renders = self._model.taste(visit.shopper, rows), self._shown_before(visit, rows)
        if is_bot:
            chances = conversion = np.zeros(len(rows))
        else:
            chances = self._model.chances(rows, taste, now, renders, widget.places)
            chances = np.minimum(1.0, chances * self._more_clicks.get(label, 1.0))
            # Who buys something anyway buys it once.
            conversion = self._model.conversion(taste) * [row not in visit.bought for row in rows.tolist()]
        return Look(
            visit.number,
            str(widget.surface),
            label,
            widget.places,
            now,
            rows,
            taste,
            renders,
            chances,
            conversion,
            clicked=click_draw < (self._mess.bot_clicks if is_bot else chances),
            carted=follow_draw < conversion * self._model.purchases.carts_per_purchase,
            bought=follow_draw < conversion,
        )

    def _rows(self, answer: Answer) -> Ints:
        try:
            return np.array([self._row[item["item_id"]] for item in answer["items"]], dtype=np.int64)
        except KeyError as error:
            raise ValueError(f"the answer shows {error}, which the catalogue does not have") from error

    def _shown_before(self, visit: _Visit, rows: Ints) -> Ints:
        """How often the shopper was shown each item; once more from now on. A bot sees nothing."""
        listed = rows.tolist()
        if self._visits.bot[visit.number]:
            return np.zeros(len(rows), dtype=np.int64)
        seen = self._renders[visit.shopper]
        renders = [seen.get(row, 0) for row in listed]
        seen.update(zip(listed, (times + 1 for times in renders), strict=True))
        return np.array(renders, dtype=np.int64)

    def _follow(self, visit: _Visit, look: Look, request_id: str, now: float) -> list[Event]:
        """The events of an answer's clicks."""
        events = []
        about = {"request_id": request_id, "surface": look.surface}
        for place in np.flatnonzero(look.clicked).tolist():
            row = int(look.items[place])
            events.append(self._about(visit, EventType.CLICK, row, now + CLICK_SECONDS, about))
            visit.clicked.setdefault(row, request_id)
            if look.carted[place] or (row in visit.bought and not self._visits.bot[visit.number]):
                events.append(self._about(visit, EventType.CART, row, now + 2 * CLICK_SECONDS, about))
            if look.bought[place]:
                visit.extra.append(row)
                visit.bought.add(row)
        return events

    def _pay(self, visit: _Visit, now: float) -> tuple[int, int]:
        """Report what is bought; cents that were to be paid anyway, and cents paid for what had been clicked."""
        world, anyway, attributed, events = self._world, 0, 0, list[Event]()
        lines: list[tuple[int, int, int]] = []
        if (basket := int(self._visits.basket[visit.number])) != NO_BASKET:
            own = world.baskets.lines(basket)
            columns = (world.baskets.items[own], world.baskets.quantities[own], world.baskets.cents[own])
            lines = list(zip(*(column.tolist() for column in columns), strict=True))
            anyway = sum(quantity * cents for _, quantity, cents in lines)
        lines += [(row, 1, int(world.items.cents[row])) for row in visit.extra]
        for row, quantity, cents in lines:
            about = {"quantity": quantity, "price_cents": cents, "order_id": visit.who["session_id"]}
            if row in visit.clicked:
                about["request_id"] = visit.clicked[row]
                attributed += quantity * cents
            events.append(self._about(visit, EventType.PURCHASE, row, now, about))
        self._courier.send(events, now)
        return anyway, attributed

    def _about(self, visit: _Visit, kind: EventType, row: int, at: float, more: Event) -> Event:
        return self._event(visit, str(kind), at, item_id=self._world.items.ids[row], **more)

    @staticmethod
    def _event(visit: _Visit, kind: str, at: float, **more: Any) -> Event:
        visit.sent += 1
        occurred = datetime.fromtimestamp(at + visit.skew, UTC).isoformat()
        event_id = f"{visit.who['session_id']}-{visit.sent}"
        return {"type": kind, "event_id": event_id, "occurred_at": occurred, **visit.who, **more}


def _skews(visits: Visits, share: float, minutes: float) -> Floats:
    """`(n_visits,)`: seconds that each visit's clock is ahead."""
    wrong, ahead = np.random.default_rng((visits.seed, 2)).random((2, len(visits)))
    return np.asarray(np.where(wrong < share, (2 * ahead - 1) * minutes * 60, 0.0), dtype=np.float64)
