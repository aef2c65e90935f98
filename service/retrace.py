"""An answer of the log once more: with what it was chosen from, what rules did to it, and why an item is not in it.

The bundle of then answers, with the history, the catalogue, the rules and the arms of then as far as they are still known; `doubts` say
what is not. An answer that comes out otherwise has its reason there, or is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC
from functools import cached_property
from pathlib import Path
from typing import Final, cast
from zlib import crc32

import numpy as np
from sqlalchemy import Engine

from recsys.compose import Blend, rebuilt
from recsys.errors import UserError
from recsys.events import Surface
from recsys.experiments.plan import THE_SHOPS, Configuration
from recsys.experiments.reading import read_plan
from recsys.models.diverse import Diverse
from recsys.ranking import NO_ITEM, Mask, Model, Query, Ranking
from recsys.rules.reading import RuleSet, read_rules
from recsys.store.reading import exposure
from recsys.store.writing import Row
from service.answering import Answering, eligible
from service.answers import Answer, Ruling, Shopper
from service.arms import POPULARITY, RANDOM, changed, interleaved
from service.bundles import LiveBundle
from service.canary import PREFIX
from service.explaining import Witness
from service.policy import Policy
from service.replay import Replayed, open_then, replayed
from service.rules import engine_for
from service.schemas import NO_FILTERS, Filters

DEPTH: Final = 100
"""Items of each source that are looked at."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that a source names."""

    item_id: str
    place: int | None
    """In the answer, from 1; None where it is not in it."""
    rank: int | None
    """In the surface's own ranking, rules aside; None where it is not among the first `DEPTH`."""
    score: float | None
    """There."""
    sources: dict[str, tuple[int, float]]
    """By name of a source its rank there, and its score."""


@dataclass(frozen=True)
class Retraced:
    """An answer of the log, made again."""

    row: Row
    """The exposure as it was logged."""
    live: LiveBundle
    """What answered."""
    replayed: Replayed
    rules: RuleSet | None
    doubts: tuple[str, ...]
    """What of then is not known any more."""

    # The answer

    @cached_property
    def answer(self) -> Answer:
        """The answer made again."""
        return self._answer(self.live, self.rules)

    def _answer(self, live: LiveBundle, rules: RuleSet | None, k: int | None = None) -> Answer:
        degraded = bool(self.row["degraded"])
        shopper = Shopper() if degraded else self.replayed.shopper
        ruling = None
        if rules is not None:
            ruling = Ruling(engine_for(rules, live), self.replayed.at, shopper.history, history_read=not degraded)
        request = self.replayed.request if k is None else self.replayed.request.model_copy(update={"k": k})
        seed = crc32(self.row["request_id"].encode())
        return Answering.rank(live, request, shopper, (), ruling, degraded=degraded, seed=seed)

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Ids, best first."""
        return tuple(self.live.catalogue.item_id(row) for row in self.answer.ranking.items.tolist())

    @property
    def logged(self) -> tuple[str, ...]:
        """Ids of the items that were answered then."""
        return tuple(item_id for item_id, *_ in self.row["items"])

    @property
    def is_equal(self) -> bool:
        """Whether the same items come, in the same order, from the same sources."""
        then = tuple((item_id, source) for item_id, source, *_ in self.row["items"])
        return then == tuple(zip(self.items, self.answer.ranking.sources, strict=True))

    @property
    def moved_by(self) -> dict[str, tuple[str, ...]]:
        """By item of the answer the rules that moved it."""
        return {item: names for item, names in zip(self.items, self.answer.moved_by, strict=False) if names}

    # What it was chosen from

    def _asked(self, rules: RuleSet | None) -> tuple[Query, Mask]:
        """What the surface's model is asked under these rules: the question, and `(n_items,)` bool of what may be shown."""
        live, surface = self.live, self.replayed.request.where
        witness = Witness(live.bundle.surfaces[surface])
        popularity = Witness(live.bundle.popularity, witness.heard)
        surfaces = {**live.bundle.surfaces, surface: cast("Model", witness)}
        bundle = replace(live.bundle, surfaces=surfaces, popularity=cast("Model", popularity))
        # Of many items, so that pins do not fill the answer before the model is asked.
        self._answer(replace(live, bundle=bundle, plain=True, against=None), rules, DEPTH)
        _, asked, _ = witness.heard[0]
        return asked.query, asked.eligible

    @cached_property
    def _asked_plainly(self) -> tuple[Query, Mask]:
        return self._asked(None)

    @property
    def query(self) -> Query:
        """The question."""
        return self._asked_plainly[0]

    @property
    def eligible(self) -> Mask:
        """`(n_items,)` bool: what may be shown, rules aside."""
        return self._asked_plainly[1]

    @cached_property
    def removed(self) -> dict[str, Mask]:
        """By rule `(n_items,)` bool of what it alone takes out; of those that take out something."""
        found = {}
        for rule in () if self.rules is None else self.rules.rules:
            if rule.enabled:
                gone = self.eligible & ~self._asked(RuleSet((rule,)))[1]
                if gone.any():
                    found[rule.name] = gone
        return found

    @cached_property
    def allowed(self) -> Mask:
        """`(n_items,)` bool: what may be shown under the rules."""
        return self._asked(self.rules)[1]

    @property
    def _model(self) -> Model:
        bundle, surface = self.live.bundle, self.replayed.request.where
        return bundle.popularity if self.answer.served_by == bundle.popularity.name else bundle.surfaces[surface]

    def _ranked(self, model: Model, n: int, allowed: Mask) -> Ranking:
        """The first n as the service ranks them, rules aside; each that asks gets a mask of its own."""
        policy = Policy(self.live, model, self.query, self.replayed.request.k, ())
        return policy(n, allowed.copy())

    @cached_property
    def candidates(self) -> list[Candidate]:
        """What any source names that may be shown, rules aside: the answer's items first, then by the surface's own ranking."""
        name = self.live.catalogue.item_id
        own = self._ranked(self._model, DEPTH, self.eligible)
        ranks: dict[str, tuple[int | None, float | None]] = {
            name(row): (at, float(own.scores[at - 1])) for at, row in enumerate(own.items.tolist(), start=1)
        }
        by_source: dict[str, dict[str, tuple[int, float]]] = {}
        for source in sources(self._model):
            said = source.recommend(self.query, DEPTH, self.eligible.copy())
            for at, row in enumerate(said.items.tolist(), start=1):
                by_source.setdefault(name(row), {})[source.name] = (at, float(said.scores[at - 1]))
        places = {item: at for at, item in enumerate(self.items, start=1)}
        found = [
            Candidate(item, places.get(item), rank, score, by_source.get(item, {}))
            for item in {**places, **ranks, **by_source}
            for rank, score in [ranks.get(item, (None, None))]
        ]
        last = len(found) + DEPTH
        return sorted(found, key=lambda one: (one.place or last, one.rank or last))

    # Why an item is not in it

    def why(self, item_id: str) -> str:
        """Why an item is not in the answer, or where it is."""
        if item_id in self.items:
            place = self.items.index(item_id)
            return f"shown at rank {place + 1}, by {self.answer.ranking.sources[place]}"
        row = self.live.catalogue.row(item_id)
        return self._barred(item_id, row) or self._outranked(row)

    def _barred(self, item_id: str, row: int) -> str:
        """What forbids it; empty where nothing does."""
        catalogue, query = self.live.catalogue, self.query
        if row == NO_ITEM:
            waits = catalogue.waiting(item_id) is not None
            return "the bundle had no room for it: it waits for the next training" if waits else "not in the catalogue"
        if not catalogue.available[row]:
            return "deleted from the catalogue" if item_id in catalogue.deleted else "not available"
        if row == query.context_item:
            return "it is the item whose page is shown"
        if row in query.cart_items:
            return "it is in the cart"
        if item_id in (self.row["shown_before"] or ()):
            return "shown before on the page, by an earlier widget"
        if names := [name for name, one in filters(self.replayed.request.filters) if not self._passes(one, row)]:
            return f"filtered: {', '.join(names)}"
        if rules := [name for name, gone in self.removed.items() if gone[row]]:
            return f"removed by rule {', '.join(map(repr, rules))}"
        return ""

    def _passes(self, one: Filters, row: int) -> bool:
        empty = np.empty(0, dtype=np.int32)
        return bool(eligible(self.live, one, NO_ITEM, empty, self.query.history)[row])

    def _outranked(self, row: int) -> str:
        """What stands before it."""
        k, model = self.replayed.request.k, self._model
        own = self._place(model, row, self.allowed)
        if own is None:
            return "not a candidate: no source names it"
        rank, score, source = own
        where = f"candidate at rank {rank} by {source}, score {score:.4g}, of which {k} are shown"
        if rank <= k:
            moving = [name for name in self.answer.outcomes if name not in self.removed]
            words = f"rules {', '.join(map(repr, moving))} put others before it"
            by = words if moving else "the models, asked for more items, place it higher"
            return f"{by}: {where}"
        plain = rebuilt(model, lambda part: part.model if isinstance(part, Diverse) else part)
        undiversified = None if plain is model else self._place(plain, row, self.allowed)
        if undiversified is not None and undiversified[0] <= k:
            return f"diversity: by score alone it stands at rank {undiversified[0]}; {where}"
        return where

    def _place(self, model: Model, row: int, allowed: Mask) -> tuple[int, float, str] | None:
        """The rank, from 1, the score and the source of an item among all."""
        for n in (DEPTH, len(allowed)):
            ranking = self._ranked(model, n, allowed)
            found = np.flatnonzero(ranking.items == row)
            if len(found):
                at = int(found[0])
                return at + 1, float(ranking.scores[at]), ranking.sources[at]
        return None


def filters(all_of: Filters) -> Iterator[tuple[str, Filters]]:
    """Each filter that a request sets, by name, as one that sets nothing else."""
    if all_of is not NO_FILTERS:
        for name, value in all_of.model_dump(exclude_defaults=True).items():
            yield name, Filters.model_validate({name: value})


def sources(model: Model) -> list[Model]:
    """The models that a composition asks in the end, each once."""
    parts: tuple[Model, ...] = model.state().parts
    if isinstance(model, Blend):
        parts = tuple(part for part, weight in zip(model.models, model.weights, strict=True) if weight > 0)
    found = [source for part in parts for source in sources(part)] if parts else [model]
    return list({id(source): source for source in found}.values())


def retrace(
    data_dir: Path, engine: Engine, request_id: str, *, rules: Path | None = None, plan: Path | None = None
) -> Retraced:
    """Make an answer of the log again; `rules` and `plan` are the files that the service runs with.

    Raises:
        UserError: there is no such answer, its bundle is gone or damaged, or a file cannot be read.
    """
    row = exposure(engine, request_id)
    if row is None:
        raise UserError(f"the log has no answer {request_id!r}")
    live = open_then(data_dir, row["model_version"], row["occurred_at"])
    found = replayed(engine, live, row)
    if found is None:
        raise UserError(f"the log does not hold the question of answer {request_id!r}: an older version wrote it")
    doubts: list[str] = []
    configuration = _configuration(row, plan, doubts)
    if configuration.rules is not None and plan is not None:
        rules = plan.parent / configuration.rules
    if found.request.where is Surface.TRENDING:
        doubts.append("what was wanted in the hours before is not logged: trending answers without it")
    if row["degraded"]:
        doubts.append(f"it was degraded, served by {row['served_by']!r}: what failed then need not fail now")
    return Retraced(
        row, _as_arm(data_dir, live, configuration, row, doubts), found, _rules(row, rules, doubts), tuple(doubts)
    )


def _configuration(row: Row, plan: Path | None, doubts: list[str]) -> Configuration:
    """What the arms of then set."""
    if row["plan"] is None or all(name.startswith(PREFIX) for name in row["arms"]):
        return THE_SHOPS
    known = None if plan is None else read_plan(plan)
    if known is None or known.version != row["plan"]:
        doubts.append(f"the experiments of then, {row['plan']}, are not in force: the arm's changes are not known")
        return THE_SHOPS
    at = row["occurred_at"].replace(tzinfo=UTC)
    return known.assign(row["user_id"], row["session_id"], Surface(row["surface"]), at).configuration


def _as_arm(data_dir: Path, live: LiveBundle, configuration: Configuration, row: Row, doubts: list[str]) -> LiveBundle:
    """The bundle of then, changed as the arm of then says; which bundle it is says the log."""
    phase = configuration.phase if configuration.phase in (RANDOM, POPULARITY) else None
    made = changed(live, configuration.model_copy(update={"phase": phase}))
    if configuration.against is None:
        return made
    others = {team for *_, team in row["items"] if team} - {row["model_version"]}
    if len(others) != 1:
        doubts.append("it was interleaved with a bundle that the log does not name")
        return made
    return interleaved(made, open_then(data_dir, others.pop(), row["occurred_at"]))


def _rules(row: Row, path: Path | None, doubts: list[str]) -> RuleSet | None:
    """The rules of then, or those that there are now."""
    now = None if path is None else read_rules(path)
    if (None if now is None else now.version) != row["rules"]:
        then, those = row["rules"] or "none", "none: give RECSYS_RULES" if now is None else now.version
        doubts.append(f"the rules of then, {then}, are not those of now, {those}")
    return now if row["rules"] is not None else None
