"""The interface as OpenAPI, from the models that check requests and, for answers, which are spliced from bytes, from models that only describe them.

Routes read bodies and query strings by themselves, which costs less than FastAPI's reading; so FastAPI cannot know what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import models_json_schema

from recsys.events import Surface
from service.access import Access
from service.admission import MAX_DEADLINE_MS
from service.schemas import (
    MAX_EVENTS,
    MAX_ITEMS,
    MAX_QUERY,
    BulkUpdate,
    Event,
    Filters,
    Id,
    Item,
    PageRequest,
    RecommendRequest,
    Render,
)

JSON: Final = "application/json"
Schema = dict[str, Any]
_REF: Final = "#/components/schemas/{model}"


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Contribution(_Described):
    """To an item's score."""

    about: str
    item_id: str | None
    value: float


class WithoutCited(_Described):
    """What an item is where the cited one is not known."""

    rank: int
    score: float
    source: str


class Explanation(_Described):
    """How a score comes about."""

    score: float
    base: float
    contributions: list[Contribution]
    cited: str | None
    without_cited: WithoutCited | None


class CatalogueItem(_Described):
    """An item as the catalogue shows it."""

    item_id: str
    title: str
    brand: str | None
    category: str | None
    price_cents: int | None
    image_url: str | None


class AnsweredItem(CatalogueItem):
    """An item in an answer."""

    rank: int = Field(ge=1)
    score: float
    confidence: float | None = Field(ge=0, le=1)
    enhanced: bool
    source: str
    reason: str
    rules: list[str] = Field(default=[], description="Absent where no rule moved it.")
    explanation: Explanation | None = Field(default=None, description="Absent unless asked for.")


class Answer(_Described):
    """Of `/recommend`."""

    request_id: str
    model_version: str
    phase: int
    currency: str | None
    surface: Surface
    served_by: str
    degraded: bool
    rung: Literal["full", "remembered", "simple", "popular"]
    consent: bool = Field(default=True, description="Absent where it was not refused.")
    shortfall: int = Field(ge=0)
    warnings: list[str]
    rules: str | None
    arms: dict[str, str]
    items: list[AnsweredItem]


class PageAnswer(_Described):
    """Of `/page`: each widget's answer by its name."""

    page_id: str
    widgets: dict[str, Answer]


class EventVerdict(_Described):
    """What became of an event."""

    event_id: str | None
    verdict: Literal["accepted", "duplicate", "rejected", "ignored"]
    reason: str | None


class EventVerdicts(_Described):
    """Of `/events`, in the order sent."""

    accepted: int
    duplicate: int
    rejected: int
    ignored: int
    verdicts: list[EventVerdict]


class LoggedVerdict(_Described):
    """A verdict and the event it is of, as it came in."""

    number: int
    at: str
    event_id: str | None
    verdict: Literal["accepted", "duplicate", "rejected"]
    reason: str | None
    body: str


class LoggedVerdicts(_Described):
    """Of `/events/verdicts`."""

    verdicts: list[LoggedVerdict]


class KnownItem(BaseModel):
    """Of `/items/{id}`; one that waits for the next training has all that was told of it."""

    item_id: str
    title: str | None
    available: bool
    currency: str | None


class ItemVerdict(_Described):
    """What became of an item."""

    item_id: str | None
    verdict: Literal["added", "updated", "waiting", "rejected"]
    reason: str | None
    warnings: list[str]


class ItemVerdicts(_Described):
    """Of `POST /items`, in the order sent."""

    verdicts: list[ItemVerdict]


class Updated(_Described):
    """Of `PATCH /items`."""

    changed: int
    unknown_item_ids: list[str] = []
    without_price: int = 0
    warnings: list[str] = []


class Deleted(_Described):
    """Of `DELETE /items/{id}`."""

    item_id: str
    verdict: Literal["deleted"]


class Found(_Described):
    """Of `/search`, the most popular first."""

    currency: str | None
    items: list[CatalogueItem]


class DemoShopper(_Described):
    """Somebody to try the storefront as."""

    user_id: str
    events: int


class DemoShoppers(_Described):
    """Of `/demo/shoppers`."""

    shoppers: list[DemoShopper]


class StorefrontKey(_Described):
    """Of `/demo/key`."""

    key: str | None


class Status(_Described):
    """Of `/health/live` and `/health/ready`."""

    status: Literal["live", "warming", "ready", "leaving"]
    model_version: str = ""
    bundle: str = Field(default="", description="Of a ready one: ok, stale, or what is wrong with what is published.")


class FieldProblem(_Described):
    """What is wrong with a field."""

    field: str
    message: str


class Refusal(_Described):
    """Why something cannot be; `errors` where it is about single fields."""

    detail: str
    errors: list[FieldProblem] = []


_REQUESTS: Final = (RecommendRequest, PageRequest, Event, Render, Item, BulkUpdate)
_ANSWERS: Final = (
    Answer,
    PageAnswer,
    EventVerdicts,
    LoggedVerdicts,
    KnownItem,
    ItemVerdict,
    ItemVerdicts,
    Updated,
    Deleted,
    Found,
    DemoShoppers,
    StorefrontKey,
    Status,
    Refusal,
)
_REASONS: Final = {
    400: "The body is no JSON of the right shape",
    401: "No key in force",
    403: "The key's role may not",
    404: "No such item",
    413: "The body is too long",
    422: "A name or value that cannot be",
    429: "Too many requests; `retry-after` says when to come again",
    431: "The head of the request is too long",
    503: "It could not be stored: send it again",
}
_BODY: Final = (400, 413, 422)


def _refers(model: type[BaseModel]) -> Schema:
    return {"$ref": _REF.format(model=model.__name__)}


def _responses(answer: type[BaseModel], *refusals: int, example: Any = None, created: bool = False) -> Schema:
    content: Schema = {"schema": _refers(answer)} | ({} if example is None else {"example": example})
    given = {
        str(status): {"description": answer.__doc__, "content": {JSON: content}} for status in (200, 201)[: 1 + created]
    }
    return given | {str(status): _refusal(status) for status in refusals}


def _refusal(status: int, model: type[BaseModel] = Refusal) -> Schema:
    return {"description": _REASONS[status], "content": {JSON: {"schema": _refers(model)}}}


def _body(schema: Schema, example: Any) -> Schema:
    return {"required": True, "content": {JSON: {"schema": schema, "example": example}}}


def _several(members: Schema, name: str, most: int, **beside: Schema) -> Schema:
    """A list, bare or under a name; under a name other members may stand `beside` it."""
    listed = {"type": "array", "items": members, "minItems": 1, "maxItems": most}
    named = {
        "type": "object",
        "properties": {name: listed, **beside},
        "required": [name],
        "additionalProperties": False,
    }
    return {"anyOf": [listed, named]}


def _query() -> list[Schema]:
    """The parameters of `GET /recommend`."""
    found: list[Schema] = []
    for model in (RecommendRequest, Filters):
        schema = model.model_json_schema(ref_template=_REF)
        for name, kind in schema["properties"].items():
            if name != "filters":
                # A query string has no null.
                kinds = [one for one in kind.pop("anyOf", []) if one != {"type": "null"}]
                kind.pop("default", None)
                described = {"description": kind.pop("description")} if "description" in kind else {}
                found.append({"name": name, "in": "query", **described, "schema": kinds[0] if kinds else kind})
    return [{**one, "example": _ASKED[one["name"]]} if one["name"] in _ASKED else one for one in found]


_ASKED: Final = {"user_id": "900", "surface": "home", "k": 12}
_ANSWER: Final = {
    "request_id": "5f0c6b1d9a2e1",
    "model_version": "20261123T181500-phase1-ab12cd34",
    "phase": 1,
    "currency": "USD",
    "surface": "home",
    "served_by": "phase1",
    "degraded": False,
    "rung": "full",
    "shortfall": 0,
    "warnings": [],
    "rules": None,
    "arms": {},
    "items": [
        {
            "rank": 1,
            "score": 1.05,
            "confidence": 0.62,
            "enhanced": False,
            "source": "buy_again",
            "reason": "You bought this 9 times",
            "item_id": "1082185",
            "title": "BANANAS 40 LB",
            "brand": "National",
            "category": "PRODUCE > TROPICAL FRUIT > BANANAS",
            "price_cents": 94,
            "image_url": None,
        }
    ],
}
_WIDGETS: Final = [{"name": "top", "surface": "home", "k": 12}, {"name": "again", "surface": "buy_again", "k": 6}]
_ITEM: Final = {
    "title": "OAT DRINK BARISTA",
    "category": "GROCERY > MILK SUBSTITUTES > OAT",
    "brand": "National",
    "price_cents": 249,
    "attributes": {"package_size": "32 OZ"},
}
_EVENT: Final = {"event_id": "e-1", "type": "cart", "user_id": "900", "session_id": "s-1", "item_id": "1082185"}
_TOLD: Final = {
    "anyOf": [
        _refers(Event),
        _refers(Render),
        {"type": "object", "description": "Google Analytics 4, see docs/api.md.", "required": ["events"]},
    ]
}
_CONSENT: Final = {"type": "boolean", "default": True, "description": "Where false, nothing of the events is kept."}
_TAKEN: Final = {
    "accepted": 1,
    "duplicate": 0,
    "rejected": 0,
    "ignored": 0,
    "verdicts": [{"event_id": "e-1", "verdict": "accepted", "reason": None}],
}
_FILTERED: Final = {"filter": {"category": "PRODUCE"}, "set": {"price_factor": 0.9}}
_DEADLINE: Final = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "description": "So long the caller waits; nearer to it, answers are cheaper.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
}
_ITEM_ID: Final = {
    "name": "item_id",
    "in": "path",
    "required": True,
    "schema": TypeAdapter(Id).json_schema(),
}


def _put_body() -> Schema:
    """An item whose id is in the path."""
    schema = Item.model_json_schema(ref_template=_REF)
    return {**schema, "required": [name for name in schema["required"] if name != "item_id"]}


def _operations() -> Mapping[tuple[str, str], Schema]:
    recommended = _responses(Answer, 422, example=_ANSWER)
    one_item, unknown = _refers(Item), {"type": "integer", "minimum": 0}
    return {
        ("get", "/recommend"): {"parameters": [*_query(), _DEADLINE], "responses": recommended},
        ("post", "/recommend"): {
            "parameters": [_DEADLINE],
            "requestBody": _body(_refers(RecommendRequest), {**_ASKED, "filters": {"category": "PRODUCE"}}),
            "responses": {**recommended, **{str(status): _refusal(status) for status in _BODY}},
        },
        ("post", "/page"): {
            "parameters": [_DEADLINE],
            "requestBody": _body(_refers(PageRequest), {"user_id": "900", "widgets": _WIDGETS}),
            "responses": _responses(
                PageAnswer, *_BODY, example={"page_id": "5f0c6b1d9a2e0", "widgets": {"top": _ANSWER}}
            ),
        },
        ("post", "/events"): {
            "requestBody": _body(
                {"anyOf": [*_TOLD["anyOf"], _several(_TOLD, "events", MAX_EVENTS, consent=_CONSENT)]},
                {"events": [_EVENT]},
            ),
            "responses": {
                **_responses(EventVerdicts, 400, 413, 503, example=_TAKEN),
                "422": _refusal(422, EventVerdicts),
            },
        },
        ("get", "/events/verdicts"): {
            "parameters": [
                {"name": "after", "in": "query", "schema": {**unknown, "default": 0}},
                {"name": "limit", "in": "query", "schema": {**unknown, "default": 100}},
                {"name": "rejected", "in": "query", "schema": {"type": "boolean", "default": False}},
            ],
            "responses": _responses(LoggedVerdicts, 422),
        },
        ("get", "/items/{item_id}"): {"parameters": [_ITEM_ID], "responses": _responses(KnownItem, 404)},
        ("put", "/items/{item_id}"): {
            "parameters": [_ITEM_ID],
            "requestBody": _body(_put_body(), _ITEM),
            "responses": _responses(ItemVerdict, *_BODY, 503, created=True),
        },
        ("delete", "/items/{item_id}"): {"parameters": [_ITEM_ID], "responses": _responses(Deleted, 404, 503)},
        ("post", "/items"): {
            "requestBody": _body(_several(one_item, "items", MAX_ITEMS), {"items": [{"item_id": "oat-1", **_ITEM}]}),
            "responses": {**_responses(ItemVerdicts, 400, 413, 503), "422": _refusal(422, ItemVerdicts)},
        },
        ("patch", "/items"): {
            "requestBody": _body(_refers(BulkUpdate), _FILTERED),
            "responses": _responses(Updated, *_BODY, 503),
        },
        ("get", "/search"): {
            "parameters": [
                {"name": "q", "in": "query", "schema": {"type": "string", "default": "", "maxLength": MAX_QUERY}}
            ],
            "responses": _responses(Found, 422),
        },
        ("get", "/demo/shoppers"): {"responses": _responses(DemoShoppers)},
        ("get", "/demo/key"): {"responses": _responses(StorefrontKey)},
        ("get", "/health/live"): {"responses": _responses(Status)},
        ("get", "/health/ready"): {
            "responses": {
                **_responses(Status),
                "503": {"description": Status.__doc__, "content": {JSON: {"schema": _refers(Status)}}},
            }
        },
        ("get", "/metrics"): {
            "responses": {"200": {"description": "Prometheus' text format", "content": {"text/plain": {}}}}
        },
    }


def documented(app: FastAPI, access: Access) -> Callable[[], Schema]:
    """For `app.openapi`: the document, written when it is first asked for."""

    def document() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, access)
        return app.openapi_schema

    return document


def _document(app: FastAPI, access: Access) -> Schema:
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
    )
    described = _operations()
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            operation.update(described.get((method, path), {}))
            _secure(operation, access.needed(method.upper(), path))
    _, schemas = models_json_schema(
        [*((model, "validation") for model in _REQUESTS), *((model, "serialization") for model in _ANSWERS)],
        ref_template=_REF,
    )
    known = found.get("components", {}).get("schemas", {})
    found["components"] = {
        "schemas": dict(sorted((known | schemas["$defs"]).items())),
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer", "description": "A key of `recsys keys create`."}
        },
    }
    return found


def _secure(operation: Schema, role: str | None) -> None:
    """Say which key an operation needs, and how it is refused without; no key where the service is open."""
    operation["responses"]["431"] = _refusal(431)
    if role is not None:
        operation["security"] = [{"key": []}, {}]
        operation["x-role"] = role
        operation["responses"] |= {str(status): _refusal(status) for status in (401, 403, 429)}
