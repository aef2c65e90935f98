"""Random catalogues, rules and requests, and a judge that knows rules only from their documentation.

The judge shares no code with `recsys.rules`: it works item by item in plain Python, on the tables as they stand in a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from recsys.events import EVENT_CODE, EventType, Surface
from recsys.models.selection import walk
from recsys.ranking import NO_ITEM, PURCHASE, History, Mask, Ranking
from recsys.rules.engine import Engine
from recsys.rules.reading import parse_rules
from recsys.rules.situation import Codes, Situation
from tests.ruled import Shelf

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PATHS: Final = ("A > X", "A > Y", "B > X", "B > Y > Z", "C")
BRANDS: Final = ("Own", "Other", "Third")
REGIONS: Final = {"north": 0, "south": 1}
SEGMENTS: Final = {"age=old": 0, "age=young": 1}
KINDS: Final = ("exclude", "only", "boost", "bury", "pin", "quota", "cap", "price", "not_in_cart", "not_bought")
SIZES: Final = (0, 1, 2, 6, 20, 60)
REQUESTS_PER_STATE: Final = 50

Verdict = bool | None
"""None: cannot be told."""
Table = dict[str, Any]


@dataclass
class State:
    """A catalogue with rules."""

    shelf: Shelf
    tables: list[Table]
    engine: Engine
    verdicts: list[list[Verdict]] = field(init=False)
    """For each rule and item whether its selector means the item."""

    def __post_init__(self) -> None:
        self.verdicts = [
            [
                meant(
                    table["replenishable"] if table["kind"] == "not_bought" else table.get("items", {}), row, self.shelf
                )
                for row in range(len(self.shelf.prices))
            ]
            if table.get("items") or table.get("replenishable")
            else []
            for table in self.tables
        ]


@dataclass
class Asked:
    """A request: who, where, and what the filters leave."""

    situation: Situation
    k: int
    eligible: Mask
    order: np.ndarray
    scores: np.ndarray

    def ask(self, k: int, allowed: Mask) -> Ranking:
        """The model: a random order, seldom of all items."""
        return walk("model", self.order, self.scores, k, allowed)


# What may be


def _pick(rng: np.random.Generator, values: Sequence[Any], unknown: float = 0.0) -> Any:
    return None if rng.random() < unknown else values[int(rng.integers(len(values)))]


def random_state(rng: np.random.Generator) -> State:
    """A catalogue of 0 to 60 items, some of which little is known of, and up to seven rules."""
    n = _pick(rng, SIZES)
    unknown = _pick(rng, (0.0, 0.1, 0.5))
    shelf = Shelf(
        prices=[None if rng.random() < unknown else int(rng.integers(0, 1_000)) for _ in range(n)],
        categories=[_pick(rng, PATHS, unknown) for _ in range(n)],
        brands=[_pick(rng, BRANDS, unknown) for _ in range(n)],
        arrivals=[row for row in range(n) if rng.random() < 0.2],
        gone=[row for row in range(n) if rng.random() < 0.1],
    )
    tables = [random_rule(rng, number, n) for number in range(int(rng.integers(0, 8)))]
    codes = Codes(lambda name: REGIONS.get(name, -1), lambda name: SEGMENTS.get(name, -1))
    return State(shelf, tables, Engine(parse_rules({"rules": tables}, "fuzz"), shelf, codes))


def random_rule(rng: np.random.Generator, number: int, n: int) -> Table:
    """A rule of any kind."""
    kind = _pick(rng, KINDS)
    table: Table = {"name": f"r{number}", "kind": kind}
    if kind in ("exclude", "only", "boost", "bury", "quota"):
        table["items"] = random_items(rng, n)
    if kind in ("exclude", "only") and rng.random() < 0.5:
        table["reason"] = _pick(rng, ("legal", "stock", "merchandising"))
    if kind == "boost":
        table["factor"] = float(rng.uniform(1.1, 20))
    elif kind == "bury":
        table["factor"] = float(rng.uniform(0, 0.9))
    elif kind == "pin":
        table |= {"item_id": f"i{rng.integers(0, n + 2)}", "position": int(rng.integers(1, 8))}
    elif kind == "quota":
        table["at_least"] = int(rng.integers(1, 6))
    elif kind == "cap":
        table |= _random_cap(rng, n)
    elif kind == "price":
        table |= {"at_least": float(rng.uniform(0, 1)), "at_most": float(rng.uniform(1, 3))}
    elif kind == "not_bought":
        table["days"] = float(rng.uniform(0.1, 100))
        if rng.random() < 0.5:
            table["replenishable"] = random_items(rng, n)
    if kind in ("pin", "quota"):
        table["priority"] = int(rng.integers(-1, 2))
    if rng.random() < 0.2:
        table["on_error"] = _pick(rng, ("open", "closed"))
    if rng.random() < 0.5:
        table["when"] = random_when(rng, n)
    return table


def _random_cap(rng: np.random.Generator, n: int) -> Table:
    table: Table = {"at_most": int(rng.integers(1, 4))}
    by = _pick(rng, ("brand", "category"), 0.3)
    if by is not None:
        table["by"] = by
    if by == "category" and rng.random() < 0.6:
        table["level"] = int(rng.integers(1, 4))
    if by is None or rng.random() < 0.3:
        table["items"] = random_items(rng, n)
    return table


def random_items(rng: np.random.Generator, n: int) -> Table:
    """A selector of one or two conditions."""
    choices = {
        "ids": lambda: [f"i{row}" for row in rng.integers(0, n + 2, 3)],
        "category": lambda: _pick(rng, ("A", "A > X", "B", "C", "nowhere")),
        "brand": lambda: _pick(rng, (*BRANDS, "nobody")),
        "min_price_cents": lambda: int(rng.integers(0, 900)),
        "new": lambda: True,
        "unknown": lambda: _pick(rng, ("price", "category", "brand")),
    }
    names = rng.choice(list(choices), int(rng.integers(1, 3)), replace=False).tolist()
    return {name: choices[name]() for name in names}


def random_when(rng: np.random.Generator, n: int) -> Table:
    """One condition."""
    choices = {
        "surfaces": lambda: rng.choice([str(s) for s in Surface], 3, replace=False).tolist(),
        "shopper": lambda: _pick(rng, ("known", "unknown")),
        "min_events": lambda: int(rng.integers(0, 10)),
        "regions": lambda: _pick(rng, (*REGIONS, "nowhere")),
        "segments": lambda: _pick(rng, (*SEGMENTS, "age=none")),
        "days": lambda: rng.choice(DAYS, 3, replace=False).tolist(),
        "hours": lambda: rng.choice(25, 2, replace=False).tolist(),
        "item": lambda: random_items(rng, n),
    }
    name = str(rng.choice(list(choices)))
    return {name: choices[name]()}


def random_request(rng: np.random.Generator, state: State) -> Asked:
    """A request about a state's catalogue."""
    n = len(state.shelf.prices)
    events = int(rng.integers(0, 30)) if n and rng.random() < 0.7 else 0
    kinds = np.array([EVENT_CODE[EventType.PURCHASE], EVENT_CODE[EventType.VIEW]], dtype=np.uint8)
    context = int(rng.integers(0, n)) if n and rng.random() < 0.5 else NO_ITEM
    region = _pick(rng, (0, 1), 0.5)
    situation = Situation(
        surface=_pick(rng, tuple(Surface)),
        at=float(rng.integers(1_700_000_000, 1_701_000_000)),
        history=History(
            rng.integers(0, max(n, 1), events).astype(np.int32),
            rng.choice(kinds, events),
            rng.uniform(0, 100, events).astype(np.float32),
        ),
        history_read=bool(rng.random() < 0.9),
        context_item=context,
        has_context=context != NO_ITEM or bool(rng.random() < 0.1),
        cart_items=rng.integers(0, max(n, 1), int(rng.integers(0, 3)) if n else 0).astype(np.int32),
        region=NO_ITEM if region is None else region,
        segments=np.array([_pick(rng, (0, 1))] if rng.random() < 0.5 else [], dtype=np.int32),
    )
    eligible = state.shelf.available & (rng.random(n) < _pick(rng, (0.05, 0.5, 1.0)))
    known = int(rng.integers(0, n + 1))
    scores = -np.sort(-rng.choice([1.0, 0.5, 0.25, 0.0, -1.0], known) * rng.uniform(0.5, 1.0, known))
    order = rng.permutation(n)[:known].astype(np.int32)
    return Asked(situation, int(_pick(rng, (1, 2, 4, 8, 12, 100))), eligible, order, scores.astype(np.float32))


# What must be


def meant(items: Mapping[str, Any], row: int, shelf: Shelf) -> Verdict:
    """Whether a selector means an item."""
    verdicts = list(_told(items, row, shelf))
    return False if False in verdicts else None if None in verdicts else True


def _told(items: Mapping[str, Any], row: int, shelf: Shelf) -> Iterator[Verdict]:
    price, category, brand = shelf.prices[row], shelf.categories[row], shelf.brands[row]
    if "ids" in items:
        yield f"i{row}" in items["ids"]
    if "category" in items:
        path = items["category"]
        yield None if category is None else category == path or category.startswith(path + " > ")
    if "brand" in items:
        yield None if brand is None else brand == items["brand"]
    if "min_price_cents" in items:
        yield None if price is None else price >= items["min_price_cents"]
    if "new" in items:
        yield row in shelf.arrivals
    if "unknown" in items:
        yield {"price": price, "category": category, "brand": brand}[items["unknown"]] is None


def in_force(table: Table, asked: Asked, shelf: Shelf) -> Verdict:
    """Whether a rule's conditions hold."""
    when, situation = table.get("when", {}), asked.situation
    if "surfaces" in when:
        return str(situation.surface) in when["surfaces"]
    if "shopper" in when or "min_events" in when:
        events = len(situation.history)
        fits = events >= when["min_events"] if "min_events" in when else (events > 0) == (when["shopper"] == "known")
        return fits if situation.history_read else None
    if "regions" in when:
        return None if situation.region < 0 else REGIONS.get(when["regions"], -9) == situation.region
    if "segments" in when:
        known = situation.segments.tolist()
        return SEGMENTS.get(when["segments"], -9) in known if known else None
    if "days" in when:
        return DAYS[(int(situation.at) // 86_400 + 3) % 7] in when["days"]
    if "hours" in when:
        start, stop = when["hours"]
        hour = situation.at / 3_600 % 24
        return start <= hour < stop if start < stop else not stop <= hour < start
    if "item" in when:
        row = situation.context_item
        return meant(when["item"], row, shelf) if row >= 0 else None if situation.has_context else False
    return True


def is_closed(table: Table) -> bool:
    """The fail policy."""
    return table.get("on_error", "closed" if table.get("reason") in ("legal", "stock") else "open") == "closed"


def group_of(table: Table, row: int, shelf: Shelf) -> str | None:
    """What a cap counts an item as, None where that is not known."""
    if table.get("by") == "brand":
        return shelf.brands[row]
    if table.get("by") == "category":
        category = shelf.categories[row]
        return None if category is None else " > ".join(category.split(" > ")[: table.get("level")])
    return "all"


def forbidden(table: Table, verdicts: Sequence[Verdict], row: int, asked: Asked, shelf: Shelf) -> bool:
    """Whether a rule that is in force keeps an item out."""
    closed, kind, situation = is_closed(table), table["kind"], asked.situation
    verdict = verdicts[row] if verdicts else True
    if kind == "exclude":
        return verdict is True or (closed and verdict is None)
    if kind == "only":
        return verdict is False or (closed and verdict is None)
    if kind == "not_in_cart":
        return row in situation.cart_items.tolist()
    if kind == "price":
        return _wrong_price(table, row, asked, shelf, closed=closed)
    if kind == "not_bought":
        return _bought_lately(table, verdicts, row, asked, closed=closed)
    if kind == "cap" and closed and verdict is not False and group_of(table, row, shelf) is None:
        return True
    return closed and verdict is None


def _wrong_price(table: Table, row: int, asked: Asked, shelf: Shelf, *, closed: bool) -> bool:
    situation = asked.situation
    if not situation.has_context:
        return False
    viewed = None if situation.context_item < 0 else shelf.prices[situation.context_item]
    price = shelf.prices[row]
    if viewed is None or price is None:
        return closed
    return not table["at_least"] * viewed - 1e-6 <= price <= table["at_most"] * viewed + 1e-6


def _bought_lately(table: Table, verdicts: Sequence[Verdict], row: int, asked: Asked, *, closed: bool) -> bool:
    history = asked.situation.history
    if not asked.situation.history_read:
        return closed
    ages = [
        age
        for item, kind, age in zip(history.items, history.event_types, history.age_days, strict=True)
        if item == row and kind == PURCHASE
    ]
    if not any(age <= table["days"] for age in ages):
        return False
    if not verdicts:
        return len(ages) < 2
    return verdicts[row] is False or (closed and verdicts[row] is None)


def check(state: State, asked: Asked) -> str | None:
    """What is wrong with the answer to a request; None where nothing is."""
    eligible = asked.eligible.copy()
    ruled = state.engine.rank(asked.ask, asked.situation, asked.k, eligible)
    shown: list[int] = ruled.ranking.items.tolist()
    active = [
        (table, verdicts)
        for table, verdicts in zip(state.tables, state.verdicts, strict=True)
        if (holds := in_force(table, asked, state.shelf)) or (holds is None and is_closed(table))
    ]
    allowed = [
        row
        for row in np.flatnonzero(asked.eligible).tolist()
        if not any(forbidden(table, verdicts, row, asked, state.shelf) for table, verdicts in active)
    ]
    if len(set(shown)) < len(shown):
        return f"repeated: {shown}"
    if not set(shown) <= set(allowed):
        return f"not eligible: {sorted(set(shown) - set(allowed))}"
    if len(ruled.ranking.sources) != len(shown) or (ruled.names and len(ruled.names) != len(shown)):
        return "columns of different length"
    return _counts(state, asked, active, shown, allowed)


def _counts(
    state: State, asked: Asked, active: list[tuple[Table, list[Verdict]]], shown: list[int], allowed: list[int]
) -> str | None:
    """What is wrong with how many items there are, of which kind, and where pins stand."""
    caps = [(table, verdicts) for table, verdicts in active if table["kind"] == "cap"]
    used: list[Counter[str]] = [Counter() for _ in caps]

    def counted(row: int) -> list[tuple[int, str]]:
        groups = [
            (number, group_of(table, row, state.shelf))
            for number, (table, verdicts) in enumerate(caps)
            if not verdicts or verdicts[row] is True
        ]
        return [(number, group) for number, group in groups if group is not None]

    for row in shown:
        for number, group in counted(row):
            used[number][group] += 1
            if used[number][group] > caps[number][0]["at_most"]:
                return f"more than {caps[number][0]['at_most']} of {group}"

    def fits(row: int) -> bool:
        return all(used[number][group] < caps[number][0]["at_most"] for number, group in counted(row))

    unfilled = asked.situation.surface is Surface.BUY_AGAIN or not active
    offered = set(asked.order.tolist()) if unfilled else set(allowed)
    left = [row for row in allowed if row not in shown and row in offered and fits(row)]
    if len(shown) > asked.k or (len(shown) < asked.k and left):
        return f"{len(shown)} of {asked.k} items, though {len(left)} more may be shown"
    pins = [table for table, _ in active if table["kind"] == "pin"]
    quotas = [(table, verdicts) for table, verdicts in active if table["kind"] == "quota"]
    if len(pins) + sum(table["at_least"] for table, _ in quotas) <= asked.k:
        for table, verdicts in quotas:
            if sum(verdicts[row] is True for row in shown) < table["at_least"] and any(verdicts[r] for r in left):
                return f"quota {table['name']} is not met, though it could be"
    return None if caps else _pins(pins, asked.k, shown, allowed)


def _pins(pins: Sequence[Table], k: int, shown: list[int], allowed: list[int]) -> str | None:
    placed: dict[int, int] = {}
    for table in sorted(pins, key=lambda table: -table["priority"]):
        row = int(table["item_id"][1:])
        if row in allowed and table["position"] <= k and table["position"] not in placed and row not in placed.values():
            placed[table["position"]] = row
    if placed and len(shown) >= max(placed):
        wrong = [position for position, row in placed.items() if shown[position - 1] != row]
        return f"pins at {wrong} are not there" if wrong else None
    return None if set(placed.values()) <= set(shown) else "a pinned item is missing"


def run(n: int, seed: int) -> tuple[Counter[str], list[str]]:
    """n random requests: how many rules of each kind were tried, and what went wrong, with the seed of the state."""
    tried: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(0, n, REQUESTS_PER_STATE):
        rng = np.random.default_rng([seed, number])
        state = random_state(rng)
        for _ in range(min(REQUESTS_PER_STATE, n - number)):
            asked = random_request(rng, state)
            tried.update(table["kind"] for table in state.tables)
            problem = check(state, asked)
            if problem is not None:
                wrong.append(f"state {[seed, number]}: {problem}")
    return tried, wrong
