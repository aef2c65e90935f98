"""The catalogue API: items are checked, made durable, and part of the next answer, without a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
from pydantic import ValidationError

from recsys.models.content import ContentModel
from recsys.ranking import NO_ITEM
from service.bundles import BundleHolder
from service.catalogue import LiveCatalogue, content_of
from service.catalogue_log import CatalogueLog
from service.judging import REJECTED
from service.metrics import Metrics
from service.schemas import MAX_ITEMS, MAX_PRICE_CENTS, BulkUpdate, Item, ItemChange, ItemFilter, in_words

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
        """Take an item away until it is put again; False where nobody knows it.

        Raises:
            CatalogueLogError: that could not be stored.
        """
        async with self._log.writing() as log:
            catalogue = self._holder.live.catalogue
            if catalogue.row(item_id) == NO_ITEM and catalogue.waiting(item_id) is None:
                return False
            await log.append([{"kind": "delete", "changed_at": self._now(), "item_ids": [item_id]}])
        self._holder.live  # noqa: B018 - reads on
        self._metrics.changed("deleted", 1)
        return True

    async def update(self, update: BulkUpdate) -> dict[str, Any]:
        """Change all items that fit the filter; says how many did, and what could not be done.

        Raises:
            CatalogueLogError: nothing could be stored.
        """
        async with self._log.writing() as log:
            found, unknown = _matching(self._holder.live.catalogue, update.filter)
            known = [one for one in found if one[1] is not None]
            without_price = len(found) - len(known) if update.set.price_factor is not None else 0
            if update.set.price_factor is not None and update.set.available is None:
                found = known
            capped = sum(_is_capped(price, update.set) for _, price in found)
            changes = []
            for start in range(0, len(found), LINE_ITEMS):
                part = found[start : start + LINE_ITEMS]
                line = self._set([item_id for item_id, _ in part], available=update.set.available)
                if update.set.price_cents is not None or update.set.price_factor is not None:
                    line["price_cents"] = [_new_price(price, update.set) for _, price in part]
                changes.append(line)
            await log.append(changes)
        self._holder.live  # noqa: B018 - reads on
        self._metrics.changed(UPDATED, len(found))
        result: dict[str, Any] = {"changed": len(found)}
        if unknown:
            result["unknown_item_ids"] = unknown
        if without_price:
            result["without_price"] = without_price
        if capped:
            result["warnings"] = [
                f"{capped:,} prices would be above {MAX_PRICE_CENTS:,} cents, the most there is, and are that now"
            ]
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


def _new_price(price: int | None, change: ItemChange) -> int | None:
    """Cents after a change; none where it is relative and there was none."""
    if change.price_cents is not None:
        return change.price_cents
    if price is None or change.price_factor is None:
        return None
    return min(round(price * change.price_factor), MAX_PRICE_CENTS)


def _is_capped(price: int | None, change: ItemChange) -> bool:
    return (
        price is not None and change.price_factor is not None and round(price * change.price_factor) > MAX_PRICE_CENTS
    )


def _matching(catalogue: LiveCatalogue, wanted: ItemFilter) -> tuple[list[tuple[str, int | None]], list[str]]:
    """Ids and prices of the items that fit a filter, and the ids in it that nobody knows; deleted items fit none."""
    mask = np.zeros(len(catalogue.available), dtype=np.bool_)
    unknown: list[str] = []
    if wanted.item_ids is None:
        mask[: catalogue.n_items] = True
    else:
        rows = {item_id: catalogue.row(item_id) for item_id in wanted.item_ids}
        unknown = [id_ for id_, row in rows.items() if row == NO_ITEM and catalogue.waiting(id_) is None]
        mask[[row for row in rows.values() if row != NO_ITEM]] = True
    mask[[row for row in map(catalogue.row, catalogue.deleted) if row != NO_ITEM]] = False
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
    rows_found = np.flatnonzero(mask)
    prices = catalogue.price_cents[rows_found].tolist()
    found = [
        (catalogue.item_id(row), price if price >= 0 else None)
        for row, price in zip(rows_found.tolist(), prices, strict=True)
    ]
    waiting = [
        item for item in catalogue.waiting_items if _fits(item, wanted) and item["item_id"] not in catalogue.deleted
    ]
    return found + [(item["item_id"], item["price_cents"]) for item in waiting], unknown


def _fits(item: Mapping[str, Any], wanted: ItemFilter) -> bool:
    """Whether an item that has no row yet fits a filter."""
    path, price = item["category"] or "", item["price_cents"]
    return (
        (wanted.item_ids is None or item["item_id"] in wanted.item_ids)
        and (wanted.category is None or path == wanted.category or path.startswith(f"{wanted.category} > "))
        and (wanted.brand is None or item["brand"] == wanted.brand)
        and (wanted.available is None or item["available"] == wanted.available)
        and (wanted.min_price_cents is None or (price is not None and price >= wanted.min_price_cents))
        and (wanted.max_price_cents is None or (price is not None and price <= wanted.max_price_cents))
    )
