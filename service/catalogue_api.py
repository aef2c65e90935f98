"""The catalogue API: items are checked, made durable, and part of the next answer, without a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
from pydantic import ValidationError

from recsys.models.content import ContentModel
from recsys.ranking import NO_ITEM, ItemArray
from service.bundles import BundleHolder
from service.catalogue import LiveCatalogue, content_of
from service.catalogue_log import CatalogueLog
from service.events import REJECTED
from service.metrics import Metrics
from service.schemas import MAX_ITEMS, MAX_PRICE_CENTS, BulkUpdate, Item, ItemFilter, in_words

ADDED: Final = "added"
UPDATED: Final = "updated"
WAITING: Final = "waiting"
LINE_ITEMS: Final = 1_000
"""Items of a bulk update that one line of the log changes."""
ODD_PRICE: Final = 100
"""A price is odd from so many times the 99th percentile on: a few absurd prices do not make the next one normal."""


class ItemsError(Exception):
    """The body as a whole cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class ItemVerdict:
    """What became of one item."""

    item_id: str | None
    verdict: str
    """`added`, `updated`, `waiting` (stored; recommended after the next training) or `rejected`."""
    reason: str | None = None
    warnings: tuple[str, ...] = ()


def parse_items(body: bytes) -> list[Any]:
    """The items of a body: a list, or `{"items": [...]}`.

    Raises:
        ItemsError: it is not JSON, of another shape, or holds too many.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ItemsError(f"the body is not JSON: {error}") from error
    if isinstance(content, dict) and set(content) == {"items"}:
        content = content["items"]
    if not isinstance(content, list):
        raise ItemsError('send a list of items, or {"items": [...]}')
    if not content:
        raise ItemsError("there is no item in the body")
    if len(content) > MAX_ITEMS:
        raise ItemsError(f"{len(content):,} items at once are too many: send at most {MAX_ITEMS:,}")
    return content


class CatalogueEditor:
    """Writes changes to the log that every worker follows; returns when this one has."""

    def __init__(self, holder: BundleHolder, log: CatalogueLog, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._holder = holder
        self._log = log
        self._metrics = metrics
        self._clock = clock

    async def put_each(self, contents: Sequence[Any]) -> list[ItemVerdict]:
        """A verdict for each item, in order; what is no item is rejected, the others are put.

        Raises:
            CatalogueLogError: they could not be stored.
        """
        judged = [_judge(content) for content in contents]
        put = iter(await self.put([item for item in judged if isinstance(item, Item)]))
        verdicts = [next(put) if isinstance(item, Item) else item for item in judged]
        self._metrics.changed(REJECTED, sum(verdict.verdict == REJECTED for verdict in verdicts))
        return verdicts

    async def put(self, items: Sequence[Item]) -> list[ItemVerdict]:
        """A verdict for each item, in order; of several with one id the last one stands.

        Raises:
            CatalogueLogError: they could not be stored.
        """
        async with self._log.writing() as log:
            before = self._holder.live.catalogue
            known = [before.row(item.item_id) != NO_ITEM for item in items]
            limit = _price_limit(before)
            warnings = [_warnings(item, before, limit) for item in items]
            await log.append([{"kind": "item", "changed_at": self._now(), "item": item.model_dump()} for item in items])
        after = self._holder.live
        verdicts = []
        for item, was_known, warned in zip(items, known, warnings, strict=True):
            row = after.catalogue.row(item.item_id)
            if row == NO_ITEM:
                reason = "stored; the live bundle has no room for it: it is recommended after the next training"
                verdicts.append(ItemVerdict(item.item_id, WAITING, reason, warned))
                continue
            warned = (*warned, *_unplaced(item, row, after.bundle.content))
            verdicts.append(ItemVerdict(item.item_id, UPDATED if was_known else ADDED, warnings=warned))
        for kind in (ADDED, UPDATED, WAITING):
            self._metrics.changed(kind, sum(verdict.verdict == kind for verdict in verdicts))
        return verdicts

    async def delete(self, item_id: str) -> bool:
        """Switch an item off for good; False where nobody knows it.

        Raises:
            CatalogueLogError: that could not be stored.
        """
        async with self._log.writing() as log:
            catalogue = self._holder.live.catalogue
            if catalogue.row(item_id) == NO_ITEM and catalogue.waiting(item_id) is None:
                return False
            await log.append([self._set([item_id], available=False)])
        self._holder.live  # noqa: B018 - reads on
        self._metrics.changed("deleted", 1)
        return True

    async def update(self, update: BulkUpdate) -> dict[str, Any]:
        """Change all items that fit the filter; says how many did, and what could not be done.

        Raises:
            CatalogueLogError: nothing could be stored.
        """
        async with self._log.writing() as log:
            catalogue = self._holder.live.catalogue
            rows, unknown = _matching(catalogue, update.filter)
            prices = None
            without_price = 0
            if update.set.price_cents is not None:
                prices = np.full(len(rows), update.set.price_cents, dtype=np.int64)
            elif update.set.price_factor is not None:
                priced = catalogue.price_cents[rows] >= 0
                without_price = int((~priced).sum())
                rows = rows if update.set.available is not None else rows[priced]
                scaled = np.rint(catalogue.price_cents[rows] * update.set.price_factor)
                prices = np.minimum(scaled, MAX_PRICE_CENTS).astype(np.int64)
            changes = []
            for start in range(0, len(rows), LINE_ITEMS):
                part = slice(start, start + LINE_ITEMS)
                ids = [catalogue.item_id(row) for row in rows[part].tolist()]
                line = self._set(ids, available=update.set.available)
                if prices is not None:
                    line["price_cents"] = [price if price >= 0 else None for price in prices[part].tolist()]
                changes.append(line)
            await log.append(changes)
        self._holder.live  # noqa: B018 - reads on
        self._metrics.changed(UPDATED, len(rows))
        result: dict[str, Any] = {"changed": len(rows)}
        if unknown:
            result["unknown_item_ids"] = unknown
        if without_price:
            result["without_price"] = without_price
        return result

    def _set(self, item_ids: list[str], *, available: bool | None) -> dict[str, Any]:
        return {"kind": "set", "changed_at": self._now(), "item_ids": item_ids, "available": available}

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat()


def _judge(content: Any) -> Item | ItemVerdict:
    given = content.get("item_id") if isinstance(content, dict) else None
    try:
        return Item.model_validate(content)
    except ValidationError as error:
        return ItemVerdict(given if isinstance(given, str) else None, REJECTED, in_words(error))


def _price_limit(catalogue: LiveCatalogue) -> float:
    """Cents; a price above is odd. Infinite where no item has a price."""
    known = catalogue.price_cents[catalogue.price_cents > 0]
    return ODD_PRICE * float(np.percentile(known, 99, method="lower")) if len(known) else np.inf


def _warnings(item: Item, catalogue: LiveCatalogue, price_limit: float) -> tuple[str, ...]:
    """What is odd about an item, beside those that are known."""
    found = []
    if item.title is None:
        found.append("it has no title: its id is shown")
    if item.category is None:
        found.append("it has no category")
    elif not catalogue.knows_category(item.category):
        found.append(f"category {item.category!r} is new")
    if item.price_cents is not None and item.price_cents > price_limit:
        found.append(
            f"it costs more than {price_limit / 100:,.0f}, {ODD_PRICE} times the 99th percentile: check price_cents"
        )
    return tuple(found)


def _unplaced(item: Item, row: int, content: ContentModel | None) -> tuple[str, ...]:
    """What of an item's content says nothing, since no other item has it."""
    if content is None:
        return ()
    if not content.knows(row):
        return ("nothing in its content is known from other items: it is only a new arrival",)
    unknown = content.encoder.unknown(content_of(item.model_dump()))
    return (f"not known from other items, so of no use: {', '.join(unknown)}",) if unknown else ()


def _matching(catalogue: LiveCatalogue, wanted: ItemFilter) -> tuple[ItemArray, list[str]]:
    """Rows that fit a filter, ascending, and the ids in it that nobody knows."""
    mask = np.zeros(len(catalogue.available), dtype=np.bool_)
    unknown: list[str] = []
    if wanted.item_ids is None:
        mask[: catalogue.n_items] = True
    else:
        rows = {item_id: catalogue.row(item_id) for item_id in wanted.item_ids}
        unknown = [item_id for item_id, row in rows.items() if row == NO_ITEM]
        mask[[row for row in rows.values() if row != NO_ITEM]] = True
    if wanted.category is not None:
        mask &= catalogue.in_category(wanted.category)
    if wanted.brand is not None:
        mask &= catalogue.of_brand(wanted.brand)
    if wanted.available is not None:
        mask &= catalogue.available == wanted.available
    if wanted.min_price_cents is not None:
        mask &= catalogue.price_cents >= wanted.min_price_cents
    if wanted.max_price_cents is not None:
        mask &= (catalogue.price_cents >= 0) & (catalogue.price_cents <= wanted.max_price_cents)
    return np.flatnonzero(mask).astype(np.int32), unknown
