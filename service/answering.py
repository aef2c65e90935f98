"""From a request to an answer in bytes: history, mask, model, reasons. The hot path."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

import numpy as np
import orjson

from recsys.compose import Fallback
from recsys.events import EVENT_TYPES, Surface
from recsys.ranking import EMPTY_HISTORY, NO_ITEM, PURCHASE, History, ItemArray, Mask, Query, Ranking
from recsys.rules.engine import Engine, Ruled
from recsys.rules.situation import Situation
from service.answers import NO_PAGE, NOT_READ, Answer, Answered, Recorded, Ruling, Shopper, Spot
from service.arms import Arms, Line
from service.bundles import LiveBundle
from service.costs import Costs
from service.event_log import EventLog
from service.ladder import Memory, Rung, Step
from service.load import ALLOWANCE, AT_EASE, Allowance
from service.logins import Logins
from service.metrics import Metrics
from service.policy import Policy
from service.reasons import reasons
from service.schemas import NO_FILTERS, Filters, RecommendRequest
from service.session_store import Records, SessionStore, StoreUnavailableError

SESSION_SECONDS: Final = 30 * 60
_OPTIONAL: Final = ("item_id", "cart", "region", "segments")
"""Members of a request that the log has where they are given."""
_NOT_SAID: Final = (b"null", b"false")
_NO_CONSENT: Final = "consent is refused: answered from this request alone, of which nothing is kept"
logger = logging.getLogger(__name__)

_NO_ITEMS: Final[ItemArray] = np.empty(0, dtype=np.int32)


class Answering:
    """Answers requests as the experiments' arms say, logs the exposure, counts."""

    def __init__(
        self, store: SessionStore, log: EventLog, arms: Arms, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._log = log
        self._logins = Logins(store, log, clock)
        self._arms = arms
        self._metrics = metrics
        self._clock = clock
        self._prefix = secrets.token_hex(6)
        self._number = itertools.count(1)
        self._memory = Memory()
        self._costs = Costs()
        self.trend: tuple[str, ...] = ()
        """Item ids wanted most in the last 24 hours, refreshed in the background."""

    def forget(self) -> None:
        """Forget what was said to shoppers, of whom one was deleted."""
        self._memory = Memory()

    async def answer(self, request: RecommendRequest) -> bytes:
        """The answer as JSON."""
        return (await self.answered(request)).body

    async def answered(self, request: RecommendRequest) -> Answered:
        """The answer with what it was made from."""
        started, allowance = self._clock(), AT_EASE if request.explain else ALLOWANCE.get()
        await self._note(request, allowance)
        line = self._arms.line(request, started)
        recorded = await self._recorded([(line, request)], allowance)
        shopper = self.shopper(line.live, request, recorded, started)
        answer, body = self._compose(line, request, shopper, started, allowance)
        if line.shadow is not None:
            line.shadow.offer(line, request, recorded, started, answer, self.trend)
        return Answered(line, shopper, started, answer, body)

    async def page(self, widgets: Mapping[str, RecommendRequest]) -> bytes:
        """The answers of a page's widgets as JSON: each as ever, but for what those before it show.

        All are the questions of one shopper, of whom what Redis holds is read once.
        """
        started, allowance = self._clock(), ALLOWANCE.get()
        await self._note(next(iter(widgets.values())), allowance)
        lines = {name: self._arms.line(request, started) for name, request in widgets.items()}
        recorded = await self._recorded([(lines[name], request) for name, request in widgets.items()], allowance)
        page_id, shown, parts = self._id(), tuple[str, ...](), list[bytes]()
        shoppers: dict[str, Shopper | None] = {}
        for name, request in widgets.items():
            if parts:
                await asyncio.sleep(0)  # other requests do not wait for a whole page
                started = self._clock()
            live = lines[name].live
            version = live.bundle.version
            if version not in shoppers:
                shoppers[version] = self.shopper(live, request, recorded, started)
            spot = Spot(page_id, name, shown)
            answer, body = self._compose(lines[name], request, shoppers[version], started, allowance, spot)
            if (shadow := lines[name].shadow) is not None:
                shadow.offer(lines[name], request, recorded, started, answer, self.trend, shown)
            shown += tuple(live.catalogue.item_ids(answer.ranking.items.tolist()))
            parts.append(b"%b:%b" % (orjson.dumps(name), body))
        return b'{"page_id":"%b","widgets":{%b}}' % (page_id.encode(), b",".join(parts))

    def _id(self) -> str:
        """The next id of an answer or a page."""
        return f"{self._prefix}{next(self._number):x}"

    async def _note(self, request: RecommendRequest, allowance: Allowance) -> None:
        """The login that a request shows; under heavy load the shopper's next request has to show it."""
        if allowance.rung is not Rung.POPULAR:
            await self._logins.note(request.user_id, request.session_id)

    async def _recorded(
        self, questions: Sequence[tuple[Line, RecommendRequest]], allowance: Allowance
    ) -> Recorded | None:
        """What Redis holds of the shopper who asks all of these, where one of them depends on it, or may where a shadow answers it; None
        where it cannot be read, or popularity is all that there is time for."""
        if not any(
            line.shadow is not None or _reads_history(line.live, request, line.rules.on(line.live))
            for line, request in questions
        ):
            return NOT_READ
        if allowance.rung is Rung.POPULAR:
            return None
        request = questions[0][1]
        try:
            return Recorded(*await self._store.histories(request.user_id, request.session_id, allowance.to_wait))
        except StoreUnavailableError:
            return None

    def _compose(
        self,
        line: Line,
        request: RecommendRequest,
        shopper: Shopper | None,
        now: float,
        allowance: Allowance,
        spot: Spot = NO_PAGE,
    ) -> tuple[Answer, bytes]:
        """One answer, logged and counted, and the same as JSON. `shopper` is None where the history cannot be read."""
        live, surface, request_id = line.live, request.where, self._id()
        seed, began = crc32(request_id.encode()), time.perf_counter()
        best, shown = allowance.best(lambda rung: self._costs.of(surface, rung)), rows_of(live, spot.shown)
        try:
            answer = self.decide(line, request, shopper, now, best, shown=shown, seed=seed)
        except Exception:
            # Whatever is wrong with a model, it is no shopper's trouble.
            logger.exception("%s cannot answer %s: popularity does", live.bundle.version, surface)
            self._metrics.failed(surface)
            if line.watch is not None:
                line.watch.failed()
            answer = self.decide(line, request, shopper, now, Rung.POPULAR, shown=shown, seed=seed)
        if (
            request.consent
            and answer.rung is Rung.FULL
            and answer.said is not None
            and surface in live.personal
            and shopper is not None
        ):
            self._remember(live, request, answer, shopper)
        line.rules.note(answer.outcomes)
        if request.consent:
            self._expose(line, request, request_id, answer, now, spot)
        shortfall = request.k - len(answer.ranking)
        tag = b"" if request.consent else b'"consent":false,'
        body = _write(line, request_id, surface, answer, shortfall, (shopper or Shopper()).history, tag)
        self._costs.note(surface, answer.rung, time.perf_counter() - began)
        seconds, degraded = self._clock() - now, answer.degraded
        self._metrics.stood_on(answer.rung.word)
        self._metrics.answered(surface, answer.served_by, degraded=degraded, seconds=seconds, shortfall=shortfall)
        for placement in line.placements:
            self._metrics.placed(placement.experiment, placement.arm, degraded=degraded)
        if line.watch is not None:
            line.watch.answered(seconds, degraded=degraded, empty=not len(answer.ranking))
        return answer, body

    def decide(
        self,
        line: Line,
        request: RecommendRequest,
        shopper: Shopper | None,
        now: float,
        best: Rung = Rung.FULL,
        *,
        shown: ItemArray = _NO_ITEMS,
        seed: int,
    ) -> Answer:
        """The answer under the rules in force, from the rung `best` or one below, not logged or counted; `shopper` is None where the
        history cannot be read."""
        engine = line.rules.on(line.live)
        reads = _reads_history(line.live, request, engine)
        unread = reads and shopper is None
        who = shopper if reads and shopper is not None else Shopper()
        ruling = None if engine is None else Ruling(engine, now, who.history, history_read=not unread)
        step = self._step(line.live, request, None if unread else who.history, best)
        return self.rank(
            line.live, request, who, self.trend, ruling, step=step, degraded=unread, shown=shown, seed=seed
        )

    def _step(self, live: LiveBundle, request: RecommendRequest, history: History | None, best: Rung) -> Step:
        """The best rung that can be stood on; `history` is None where it would have been needed and cannot be read."""
        surface, popularity = request.where, live.bundle.popularity
        own, simple = live.bundle.surfaces[surface], live.simple[surface]
        unread = history is None and _is_personal(live, request)
        if best is Rung.POPULAR or (unread and request.explain):  # what is explained must be said by a model, just now
            return Step(Rung.POPULAR, popularity)
        if not unread and (best is Rung.FULL or simple is own):
            return Step(Rung.FULL, own)
        known = None if history is None else len(history)
        if surface in live.personal and (
            said := self._memory.of(request, live.bundle.version, known, time.monotonic())
        ):
            return Step(Rung.REMEMBERED, Fallback((said, simple), said.name))
        return Step(Rung.SIMPLE, Fallback((simple, popularity), simple.name) if unread else simple)

    def _remember(self, live: LiveBundle, request: RecommendRequest, answer: Answer, shopper: Shopper) -> None:
        """Keep what the surface's model said, unless a filter made it say so."""
        if request.filters is NO_FILTERS and answer.said is not None:
            name, version = live.bundle.surfaces[request.where].name, live.bundle.version
            self._memory.keep(request, version, answer.said, name, len(shopper.history), time.monotonic())

    @staticmethod
    def shopper(live: LiveBundle, request: RecommendRequest, recorded: Recorded | None, now: float) -> Shopper | None:
        """The bundle's history of the user, then what happened since; None where that cannot be read."""
        if recorded is None:
            return None
        user, session = recorded.user, recorded.session
        known = EMPTY_HISTORY if request.user_id is None else live.bundle.histories.of(request.user_id)
        recent = _to_history(live, user if request.user_id is not None else session, now)
        visit = _to_history(live, session, now) if len(session) else recent
        session_items = visit.items[visit.age_days * 86_400 <= SESSION_SECONDS]
        return Shopper(join(known, recent), session_items)

    @staticmethod
    def rank(
        live: LiveBundle,
        request: RecommendRequest,
        shopper: Shopper,
        trend: Sequence[str] = (),
        ruling: Ruling | None = None,
        *,
        step: Step | None = None,
        degraded: bool = False,
        shown: ItemArray = _NO_ITEMS,
        seed: int = 0,
    ) -> Answer:
        """The answer, not logged or counted; `trend` is what is wanted most right now, as item ids.

        `step` says which model answers, by default the surface's own; `degraded`, whether something was lacking all the same.

        `shown` are rows that the same page shows already; `seed` makes what is random in it repeatable.
        """
        bundle, surface = live.bundle, request.where
        if not _is_personal(live, request):
            shopper = Shopper()  # that a rule has to know more changes no model's answer
        query, warnings = _question(live, request, shopper, seed)
        mask = eligible(live, request.filters, query.context_item, query.cart_items, shopper.history)
        if len(shown):
            mask[shown] = False
        step = step or Step(Rung.FULL, bundle.surfaces[surface])
        model, full = step.model, step.rung is Rung.FULL

        ask = Policy(live, model, query, request.k, trend, alone=not full)
        if ruling is None:
            ruled = Ruled(ask(request.k, mask), (), {})
        else:
            situation = _situation(request, query, ruling)
            ruled = ruling.engine.rank(ask, situation, request.k, mask)
        ranking = ruled.ranking
        served_by = model.name
        if len(ranking) and all(source == bundle.popularity.name for source in ranking.sources):
            served_by = bundle.popularity.name
        version = None if ruling is None else ruling.engine.version
        # Of random items, an answer in which a rule moved nothing is not a random one: some were more likely to come so.
        unknown = ruled.names or (ruled.arranged and ask.is_random)
        return Answer(
            ranking,
            served_by,
            degraded or not full,
            tuple(warnings),
            step.rung,
            version,
            ruled.names,
            ruled.outcomes,
            propensity=None if unknown else ask.propensity,
            teams=tuple(ask.team_of.get(row, "") for row in ranking.items.tolist()) if ask.team_of else (),
            seed=seed,
            said=ask.said,
        )

    def _expose(
        self, line: Line, request: RecommendRequest, request_id: str, answer: Answer, now: float, spot: Spot
    ) -> None:
        live = line.live
        ranking, catalogue = answer.ranking, live.catalogue
        teams = answer.teams or ("",) * len(ranking)
        shown = [
            (item_id, source, answer.propensity, team or None)
            for item_id, source, team in zip(
                catalogue.item_ids(ranking.items.tolist()), ranking.sources, teams, strict=True
            )
        ]
        moved = {item_id: by for (item_id, *_), by in zip(shown, answer.moved_by, strict=False) if by}
        self._log.expose(
            {
                "request_id": request_id,
                "occurred_at": now,
                "user_id": request.user_id,
                "session_id": request.session_id,
                "surface": request.where,
                "served_by": answer.served_by,
                "model_version": live.bundle.version,
                "phase": live.bundle.phase,
                "degraded": answer.degraded,
                "rules": answer.rules,
                "arms": {placement.experiment: (placement.arm, placement.unit) for placement in line.placements},
                "plan": line.plan,
                "seconds": self._clock() - now,
                "items": shown,
                "request": _asked(request),
                "moved_by": moved or None,
                **_spot(spot),
            }
        )


def _question(live: LiveBundle, request: RecommendRequest, shopper: Shopper, seed: int = 0) -> tuple[Query, list[str]]:
    """The request in rows and codes, and what in it could not be used."""
    catalogue, histories = live.catalogue, live.bundle.histories
    warnings = [] if request.consent else [_NO_CONSENT]
    context = NO_ITEM
    if request.item_id is not None:
        context = catalogue.row(request.item_id)
        if context == NO_ITEM:
            warnings.append(f"item {request.item_id!r} is not in the catalogue")
    cart = rows_of(live, request.cart)
    region, segments = (NO_ITEM, _NO_ITEMS) if request.user_id is None else histories.traits_of(request.user_id)
    if request.region is not None:
        region = histories.region_index.row(request.region)
        if region == NO_ITEM:
            warnings.append(f"region {request.region!r} is not known yet")
    if request.segments:
        codes = [histories.segment_index.row(name) for name in request.segments]
        unknown = [name for name, code in zip(request.segments, codes, strict=True) if code == NO_ITEM]
        warnings += [f"segment {name!r} is not known" for name in unknown]
        segments = np.unique(np.array([code for code in codes if code != NO_ITEM], dtype=np.int32))
    query = Query(
        surface=request.where,
        history=shopper.history,
        session_items=shopper.session_items,
        cart_items=cart,
        context_item=context,
        category=NO_ITEM if context == NO_ITEM else catalogue.bundle_category(context),
        region=region,
        segments=segments,
        seed=seed,
    )
    return query, warnings


def rows_of(live: LiveBundle, item_ids: Sequence[str]) -> ItemArray:
    """Those of the items that the catalogue has."""
    if not item_ids:
        return _NO_ITEMS
    rows = np.array([live.catalogue.row(item_id) for item_id in item_ids], dtype=np.int32)
    known: ItemArray = rows[rows != NO_ITEM]
    return known


def _spot(spot: Spot) -> dict[str, Any]:
    """What the log says of an answer that is part of a page: which, and what could not be shown again."""
    if spot is NO_PAGE:
        return {"page_id": None, "widget": None, "shown_before": None}
    return {"page_id": spot.page_id, "widget": spot.widget, "shown_before": spot.shown}


def _reads_history(live: LiveBundle, request: RecommendRequest, engine: Engine | None) -> bool:
    """Whether the answer, or a rule for it, depends on what the shopper did."""
    return _is_personal(live, request) or (engine is not None and engine.reads_history(request.where))


def _is_personal(live: LiveBundle, request: RecommendRequest) -> bool:
    """Whether the answer depends on the shopper's history, whatever the rules."""
    return request.where in live.personal or request.filters.only_new


def _asked(request: RecommendRequest) -> dict[str, Any]:
    """What the log has to hold beside who asked where, so that the same can be asked again."""
    asked: dict[str, Any] = {"k": request.k}
    asked |= {name: value for name in _OPTIONAL if (value := getattr(request, name))}
    if request.filters is not NO_FILTERS:
        asked["filters"] = request.filters.model_dump(exclude_defaults=True)
    return asked


def _situation(request: RecommendRequest, query: Query, ruling: Ruling) -> Situation:
    """What rules may read of a request."""
    return Situation(
        surface=query.surface,
        at=ruling.at,
        history=ruling.history,
        history_read=ruling.history_read,
        context_item=query.context_item,
        has_context=request.item_id is not None,
        cart_items=query.cart_items,
        region=query.region,
        region_name=request.region,
        segments=query.segments,
        segment_names=request.segments,
    )


def eligible(live: LiveBundle, filters: Filters, context: int, cart: ItemArray, history: History) -> Mask:
    """The one gate: `(n_items,)` bool of what may be answered."""
    catalogue = live.catalogue
    mask = catalogue.available.copy()
    if context != NO_ITEM:
        mask[context] = False
    if len(cart):
        mask[cart] = False
    if filters is NO_FILTERS:
        return mask
    if filters.category is not None:
        mask &= catalogue.in_category(filters.category)
    if filters.brand is not None:
        mask &= catalogue.of_brand(filters.brand)
    if filters.min_price_cents is not None:
        mask &= catalogue.price_cents >= filters.min_price_cents
    if filters.max_price_cents is not None:
        mask &= (catalogue.price_cents >= 0) & (catalogue.price_cents <= filters.max_price_cents)
    excluded = np.array([catalogue.row(item_id) for item_id in filters.exclude_item_ids], dtype=np.int32)
    mask[excluded[excluded != NO_ITEM]] = False
    if filters.only_new:
        mask[history.items[history.event_types == PURCHASE]] = False
    return mask


def _to_history(live: LiveBundle, records: Records, now: float) -> History:
    """Live records as a history, without what the bundle has learnt from already and what it does not list."""
    if len(records) == 0:
        return EMPTY_HISTORY
    rows = live.catalogue.rows_of_hashes(records["item"])
    # The last condition keeps foreign bytes under a key of ours from costing the answer.
    keep = (rows >= 0) & (records["received"] > live.bundle.log_until) & (records["type"] < len(EVENT_TYPES))
    age = np.maximum(now - records["received"][keep], 0.0) / 86_400
    return History(rows[keep], records["type"][keep], age.astype(np.float32))


def join(first: History, then: History) -> History:
    """One history after the other."""
    if len(first) == 0 or len(then) == 0:
        return first if len(first) else then
    return History(
        np.concatenate([first.items, then.items]),
        np.concatenate([first.event_types, then.event_types]),
        np.concatenate([first.age_days, then.age_days]),
    )


def _confidence(ranking: Ranking) -> Sequence[tuple[bytes, bytes]]:
    """For each item the chance that it is bought, or null, and whether the place is one that the ensemble took."""
    if ranking.chances is None:
        return (_NOT_SAID,) * len(ranking)
    sure = [b"null" if chance != chance else b"%.4g" % chance for chance in ranking.chances.tolist()]
    if ranking.enhanced is None:
        return [(chance, b"false") for chance in sure]
    taken = [b"true" if enhanced else b"false" for enhanced in ranking.enhanced.tolist()]
    return list(zip(sure, taken, strict=True))


def _write(
    line: Line, request_id: str, surface: Surface, answer: Answer, shortfall: int, history: History, tag: bytes
) -> bytes:
    """The answer as JSON, spliced from what the bundle has ready; `tag` are members of its own, each with its comma."""
    live = line.live
    ranking, catalogue = answer.ranking, live.catalogue
    arms = {placement.experiment: placement.arm for placement in line.placements}
    texts: Sequence[bytes] = reasons(ranking, history, catalogue)
    items = b",".join(
        b'{"rank":%d,"score":%.4g,"confidence":%b,"enhanced":%b,"source":"%b","reason":%b,%b%b}'
        % (rank, score, *sure, source.encode(), text, fragment, moved)
        for rank, (fragment, score, sure, source, text, moved) in enumerate(
            zip(
                catalogue.fragments(ranking.items.tolist()),
                ranking.scores.tolist(),
                _confidence(ranking),
                ranking.sources,
                texts,
                _moved(answer),
                strict=True,
            ),
            start=1,
        )
    )
    return (
        b'{"request_id":"%b",%b,%b"surface":"%b","served_by":"%b","degraded":%b,"rung":"%b","shortfall":%d,"warnings":%b,"rules":%b,"arms":%b,"items":[%b]}'
        % (
            request_id.encode(),
            live.head,
            tag,
            surface.encode(),
            answer.served_by.encode(),
            b"true" if answer.degraded else b"false",
            answer.rung.word.encode(),
            shortfall,
            orjson.dumps(answer.warnings),
            orjson.dumps(answer.rules),
            orjson.dumps(arms) if arms else b"{}",
            items,
        )
    )


def _moved(answer: Answer) -> list[bytes]:
    """For each item the member that names the rules that moved it; nothing for most."""
    if not answer.moved_by:
        return [b""] * len(answer.ranking)
    return [b',"rules":%b' % orjson.dumps(names) if names else b"" for names in answer.moved_by]
