"""The routes: what comes in is checked once, what goes out is bytes."""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Scope

from recsys.ids import NOT_FOUND
from recsys.ranking import NO_ITEM
from recsys.store.reading import latest_verdicts
from service.admission import OVERLOAD
from service.answering import Answering
from service.bundles import BundleHolder
from service.catalogue_api import UPDATED, CatalogueEditor, ItemsError, parse_items
from service.catalogue_log import CatalogueLogError
from service.event_log import EventLog
from service.events import AGAIN, Intake
from service.explaining import explained
from service.guard import KEY
from service.judging import REJECTED, VERDICTS, EventsError, parse_body
from service.keys import Role
from service.ladder import Rung
from service.load import ALLOWANCE
from service.metrics import Metrics
from service.presence import Presence, State
from service.problem import problem
from service.schemas import (
    MAX_QUERY,
    BulkUpdate,
    Item,
    PageError,
    Problem,
    RecommendRequest,
    in_words,
    pairs_of,
    problems,
    read_page,
    request_from_query,
)
from service.settings import Settings

JSON: Final = "application/json"
RETRY_LATER: Final = {"Retry-After": "1"}
SEARCH_LIMIT: Final = 20
MAX_VERDICTS: Final = 1_000
LAST_NUMBER: Final = 2**63 - 1
"""Of a row that either database can have."""


class _AnyText(Convertor[str]):
    """Of a path all the rest, also lines: an id may hold any character."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", _AnyText())


class TooLargeError(Exception):
    """A body is larger than the service takes."""


class Routes:
    """Every route but the storefront's files."""

    def __init__(
        self,
        holder: BundleHolder,
        answering: Answering,
        intake: Intake,
        editor: CatalogueEditor,
        log: EventLog,
        presence: Presence,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._holder = holder
        self._editor = editor
        self._answering = answering
        self._intake = intake
        self._log = log
        self._presence = presence
        self._metrics = metrics
        self._settings = settings
        router = self.router = APIRouter()
        add = router.add_api_route
        add("/recommend", self.recommend_get, methods=["GET"], tags=["answers"])
        add("/recommend", self.recommend_post, methods=["POST"], tags=["answers"])
        add("/page", self.page, methods=["POST"], tags=["answers"])
        add("/events", self.events, methods=["POST"], tags=["events"])
        add("/events/verdicts", self.verdicts, methods=["GET"], tags=["events"])
        add("/items/{item_id:any}", self.item, methods=["GET"], tags=["catalogue"])
        add("/items/{item_id:any}", self.put_item, methods=["PUT"], tags=["catalogue"])
        add("/items/{item_id:any}", self.delete_item, methods=["DELETE"], tags=["catalogue"])
        add("/items", self.put_items, methods=["POST"], tags=["catalogue"])
        add("/items", self.update_items, methods=["PATCH"], tags=["catalogue"])
        add("/search", self.search, methods=["GET"], tags=["catalogue"])
        add("/demo/shoppers", self.shoppers, methods=["GET"], tags=["storefront"])
        add("/demo/key", self.key, methods=["GET"], tags=["storefront"])
        add("/health/live", self.is_live, methods=["GET"], tags=["health"])
        add("/health/ready", self.is_ready, methods=["GET"], tags=["health"])
        add("/metrics", self.metrics, methods=["GET"], tags=["health"])

    async def recommend_get(self, request: Request) -> Response:
        """Recommend items."""
        return await self.recommended(request.scope)

    async def recommended(self, scope: Scope) -> Response:
        """The answer to a `GET`, whichever way it came: see `service.direct`."""
        try:
            question = request_from_query(pairs_of(scope["query_string"]))
        except ValidationError as error:
            return _invalid(error)
        return await self._recommend(scope, question)

    async def recommend_post(self, request: Request) -> Response:
        """Recommend items; the same as GET, with the names in a JSON body and filters under `filters`."""
        try:
            body = await self._body(request)
            question = RecommendRequest.model_validate(orjson.loads(body))
        except TooLargeError as error:
            return problem(413, str(error))
        except orjson.JSONDecodeError as error:
            return problem(400, f"the body is not JSON: {error}")
        except ValidationError as error:
            return _invalid(error)
        return await self._recommend(request.scope, question)

    async def _recommend(self, scope: Scope, question: RecommendRequest) -> Response:
        if question.k > self._settings.max_k:
            return problem(422, f"k: at most {self._settings.max_k} items can be asked for")
        if question.explain and (key := scope.get(KEY)) and not key.role.may(Role.SERVER):
            return problem(403, f"explain: a key of the role {key.role} may not, this needs the role {Role.SERVER}")
        if question.explain and ALLOWANCE.get().rung is not Rung.FULL:
            self._metrics.turned_away(OVERLOAD)
            return problem(429, "explain: takes too long for so many requests at once: try again", {"retry-after": "1"})
        answer = explained(self._answering, question) if question.explain else self._answering.answer(question)
        return Response(await answer, media_type=JSON)

    async def page(self, request: Request) -> Response:
        """Recommend items for several widgets of one page, none of them twice; a widget's answer is that of /recommend."""
        try:
            widgets = read_page(orjson.loads(await self._body(request)))
        except TooLargeError as error:
            return problem(413, str(error))
        except orjson.JSONDecodeError as error:
            return problem(400, f"the body is not JSON: {error}")
        except PageError as error:
            return _unfit(error.problems)
        most = self._settings.max_k
        if large := [name for name, question in widgets.items() if question.k > most]:
            message = f"at most {most} items can be asked for"
            return _unfit([{"field": f"widgets.{name}.k", "message": message} for name in large])
        return Response(await self._answering.page(widgets), media_type=JSON)

    async def events(self, request: Request) -> Response:
        """Tell what shoppers did: one event, a list, or `{"events": [...]}`, ours or GA4's, at most 1,000; a verdict for each."""
        try:
            contents = parse_body(await self._body(request))
        except TooLargeError as error:
            return problem(413, str(error))
        except EventsError as error:
            return problem(400, str(error))
        verdicts = await self._intake.take(self._holder.live, contents)
        counts = {kind: sum(v.verdict == kind for v in verdicts) for kind in VERDICTS}
        status, headers = 422 if counts[REJECTED] == len(verdicts) else 200, None
        if any(verdict.reason == AGAIN for verdict in verdicts):
            status, headers = 503, RETRY_LATER
        return Response(orjson.dumps({**counts, "verdicts": verdicts}), status, headers, JSON)

    async def verdicts(self, after: int = 0, limit: int = 100, rejected: bool = False) -> Response:
        """The latest verdicts and the events they are of, oldest first: those with a number above `after`."""
        kinds = (REJECTED,) if rejected else ()
        limit, after = min(max(limit, 1), MAX_VERDICTS), min(max(after, 0), LAST_NUMBER)
        rows = await asyncio.to_thread(latest_verdicts, self._log.engine, limit, after=after, kinds=kinds)
        return Response(
            orjson.dumps({"verdicts": rows}, option=orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC), media_type=JSON
        )

    async def item(self, item_id: str) -> Response:
        """One item of the catalogue."""
        live = self._holder.live
        catalogue = live.catalogue
        row = catalogue.row(item_id)
        if row == NO_ITEM:
            waiting = catalogue.waiting(item_id)
            if waiting is None:
                return problem(404, f"item {item_id!r} is not in the catalogue")
            return Response(orjson.dumps({**waiting, "currency": live.bundle.manifest["currency"]}), media_type=JSON)
        available = b"true" if catalogue.available[row] else b"false"
        body = b'{%b,"available":%b,"currency":%b}' % (catalogue.fragment(row), available, live.currency)
        return Response(body, media_type=JSON)

    async def put_item(self, item_id: str, request: Request) -> Response:
        """Add an item, or replace what is known of it; what the body leaves out is unknown."""
        try:
            content = orjson.loads(await self._body(request))
            if isinstance(content, dict) and content.setdefault("item_id", item_id) != item_id:
                return problem(422, f"item_id: the path says {item_id!r}, the body {content['item_id']!r}")
            item = Item.model_validate(content)
            (verdict,) = await self._editor.put([item])
        except TooLargeError as error:
            return problem(413, str(error))
        except orjson.JSONDecodeError as error:
            return problem(400, f"the body is not JSON: {error}")
        except ValidationError as error:
            return _invalid(error)
        except CatalogueLogError as error:
            return problem(503, f"not stored, send it again: {error}")
        return Response(orjson.dumps(verdict), 200 if verdict.verdict == UPDATED else 201, media_type=JSON)

    async def put_items(self, request: Request) -> Response:
        """The same for many: a list, or `{"items": [...]}`, at most 1,000; a verdict for each."""
        try:
            contents = parse_items(await self._body(request))
            verdicts = await self._editor.put_each(contents)
        except TooLargeError as error:
            return problem(413, str(error))
        except ItemsError as error:
            return problem(400, str(error))
        except CatalogueLogError as error:
            return problem(503, f"nothing is stored, send it again: {error}")
        status = 422 if all(verdict.verdict == REJECTED for verdict in verdicts) else 200
        return Response(orjson.dumps({"verdicts": verdicts}), status, media_type=JSON)

    async def delete_item(self, item_id: str) -> Response:
        """Never recommend an item again, from the next request on. What it was stays known: histories speak of it."""
        try:
            known = await self._editor.delete(item_id)
        except CatalogueLogError as error:
            return problem(503, f"not stored, send it again: {error}")
        if not known:
            return problem(404, f"item {item_id!r} is not in the catalogue")
        return Response(orjson.dumps({"item_id": item_id, "verdict": "deleted"}), media_type=JSON)

    async def update_items(self, request: Request) -> Response:
        """Change the price or availability of all items that fit a filter."""
        try:
            update = BulkUpdate.model_validate(orjson.loads(await self._body(request)))
            result = await self._editor.update(update)
        except TooLargeError as error:
            return problem(413, str(error))
        except orjson.JSONDecodeError as error:
            return problem(400, f"the body is not JSON: {error}")
        except ValidationError as error:
            return _invalid(error)
        except CatalogueLogError as error:
            return problem(503, f"nothing is changed, send it again: {error}")
        return Response(orjson.dumps(result), media_type=JSON)

    async def search(self, q: str = "") -> Response:
        """Items whose title holds every word, the most popular first."""
        if len(q) > MAX_QUERY:
            return problem(422, f"q: at most {MAX_QUERY} characters")
        live = self._holder.live
        rows = live.catalogue.search(q, SEARCH_LIMIT)
        items = b",".join(b"{%b}" % live.catalogue.fragment(row) for row in rows)
        return Response(b'{"currency":%b,"items":[%b]}' % (live.currency, items), media_type=JSON)

    async def shoppers(self) -> Response:
        """A few known shoppers, to try the storefront as."""
        bundle = self._holder.live.bundle
        users = [user for user in bundle.sample_users if bundle.histories.index.row(user) != NOT_FOUND]
        known = [{"user_id": user, "events": len(bundle.histories.of(user))} for user in users]
        return Response(orjson.dumps({"shoppers": known}), media_type=JSON)

    async def key(self) -> Response:
        """The key that the storefront asks with, which is public; null where it needs or has none."""
        return Response(orjson.dumps({"key": self._settings.storefront_key}), media_type=JSON)

    async def is_live(self) -> Response:
        """The process answers."""
        return Response(b'{"status":"live"}', media_type=JSON)

    async def is_ready(self) -> Response:
        """Whether requests should be sent here: with or without Redis, but not before it is warm, nor when it is about to stop. `bundle` says
        what is wrong with the one that answers."""
        holder, state = self._holder, self._presence.state
        ready = {
            "status": state,
            "model_version": holder.live.bundle.version,
            "bundle": holder.trouble or ("stale" if holder.stale else "ok"),
        }
        return Response(orjson.dumps(ready), 200 if state is State.READY else 503, media_type=JSON)

    async def metrics(self) -> Response:
        """Counters in Prometheus' text format."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _body(self, request: Request) -> bytes:
        """The body, read no further than it may be long."""
        limit = self._settings.max_body_bytes
        message = f"the body is larger than {limit:,} bytes"
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            raise TooLargeError(message)
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise TooLargeError(message)
            parts.append(part)
        return b"".join(parts)


async def gone(_request: Request, _error: Exception) -> Response:
    """To a client that broke off in the middle of its body: nobody reads this, and it is no error of ours."""
    return Response(status_code=499)


async def misasked(_request: Request, error: Exception) -> Response:
    """What FastAPI itself refuses, in our words."""
    assert isinstance(error, RequestValidationError)
    return _unfit([{"field": str(one["loc"][-1]), "message": one["msg"]} for one in error.errors()])


def _invalid(error: ValidationError) -> Response:
    return _unfit(problems(error))


def _unfit(found: list[Problem]) -> Response:
    body = {"detail": in_words(found), "errors": found}
    return Response(orjson.dumps(body), 422, media_type=JSON)
