"""The catalogue as it is now: the bundle's, and what the catalogue API was told since the bundle learnt.

The only part of a live bundle that changes. Items that join take spare rows of the bundle, so that models, masks and
histories know them like any other.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.content import ItemContent
from recsys.events import Surface
from recsys.ids import HashIndex, hash_id
from recsys.models.popularity import OrderModel
from recsys.ranking import NO_ITEM, ItemArray, Mask, Model, Query
from service.catalogue_log import CatalogueLog
from service.schemas import Item

logger = logging.getLogger(__name__)

MAX_CATEGORY_MASKS: Final = 256
UNKNOWN: Final = -2
"""The code of a brand that no item has."""


class LiveCatalogue:
    """Items by row, as `recsys.bundle.BundleCatalogue` has them, brought up to date by `follow`."""

    def __init__(self, bundle: Bundle, log: CatalogueLog) -> None:
        """It starts where the bundle's tables ended and reads on to the log's end."""
        base = self._base = bundle.catalogue
        self._content = bundle.content
        self._popularity = bundle.popularity
        self._new_arrivals = bundle.surfaces[Surface.NEW_ARRIVALS]
        self._log = log
        self._position = int(bundle.manifest["data"]["catalogue_bytes"])
        self.available: Mask = np.array(base.available)
        """`(n,)` bool; copied, never changed, by a request."""
        self.price_cents = np.array(base.price_cents)
        """`(n,)` int64, -1 where unknown."""
        self.category = np.array(base.category)
        """`(n,)` int32 codes, -1 where unknown; those of the bundle's own categories come first."""
        self.brand = np.array(base.brand)
        """`(n,)` int32 codes, -1 where unknown."""
        self.newest: list[int] = []
        """Rows of items that joined and were not deleted, the latest first."""
        self.revision = 0
        """Grows with every change of a category, brand or price: what was computed from them is computed again."""
        self._fragments: dict[int, bytes] = {}
        self._titles: dict[int, str] = {}
        self._joined: dict[str, int] = {}
        self._joined_ids: list[str] = []
        self._joined_index = HashIndex.build([])
        self._waiting: dict[str, dict[str, Any]] = {}
        self._below: dict[str, Mask] = {}
        self.deleted: set[str] = set()
        """Ids that were deleted, also before the bundle learnt: only a `PUT` brings them back."""
        for change in log.read(0, self._position)[0]:
            self._mark(change)
        self.follow()

    # Reading

    def row(self, item_id: str) -> int:
        """The row of an item, or `NO_ITEM`."""
        row = self._base.row(item_id)
        return row if row != NO_ITEM else self._joined.get(item_id, NO_ITEM)

    def rows_of_hashes(self, hashes: NDArray[np.uint64]) -> ItemArray:
        """`(m,)` id hashes to `(m,)` rows, `NO_ITEM` where unknown."""
        rows = self._base.rows_of_hashes(hashes)
        if self._joined:
            rows = np.where(rows == NO_ITEM, self._joined_index.lookup(hashes), rows)
        return rows

    def item_id(self, row: int) -> str:
        """The external id of a row."""
        n = self._base.n_listed
        return self._base.item_id(row) if row < n else self._joined_ids[row - n]

    def item_ids(self, rows: Sequence[int]) -> list[str]:
        """The same of several rows."""
        if self._joined_ids:
            return [self.item_id(row) for row in rows]
        return [name.decode("utf-8", "surrogatepass") for name in self._base.item_ids.take(rows)]

    def fragment(self, row: int) -> bytes:
        """The item's JSON members without braces, ready to be spliced into an answer."""
        found = self._fragments.get(row)
        return self._base.fragment(row) if found is None else found

    def fragments(self, rows: Sequence[int]) -> list[bytes]:
        """The same of several rows."""
        changed, found = self._fragments, self._base.fragments.take(rows)
        return [changed.get(row, own) for row, own in zip(rows, found, strict=True)] if changed else found

    def title_json(self, row: int) -> bytes:
        """The title as a JSON string, quotes included."""
        title = self._titles.get(row)
        return self._base.title_json(row) if title is None else orjson.dumps(title)

    @property
    def waiting_items(self) -> Iterable[dict[str, Any]]:
        """Items that are stored, and have to wait for the next training."""
        return self._waiting.values()

    def waiting(self, item_id: str) -> dict[str, Any] | None:
        """An item that is stored, and has to wait for the next training: the bundle has no room for it."""
        return self._waiting.get(item_id)

    @property
    def n_items(self) -> int:
        """Rows that are items, not spare ones."""
        return self._base.n_listed + len(self._joined_ids)

    @property
    def n_waiting(self) -> int:
        """Items for which the bundle has no room."""
        return len(self._waiting)

    def bundle_category(self, row: int) -> int:
        """The code of a row's category where the bundle's models know it, else `NO_ITEM`."""
        code = int(self.category[row])
        return code if code < len(self._base.categories) else NO_ITEM

    @property
    def category_names(self) -> list[str]:
        """The path of every category code."""
        return list(self._categories)

    @property
    def arrivals(self) -> list[int]:
        """Rows of what is new here: what joined, then what the bundle calls new arrivals."""
        return [*self.newest, *self._listed_arrivals]

    @cached_property
    def _listed_arrivals(self) -> list[int]:
        return _order_of(self._new_arrivals, Surface.NEW_ARRIVALS)

    @cached_property
    def _categories(self) -> dict[str, int]:
        column = self._base.categories
        return {column[code].decode(): code for code in range(len(column))}

    @cached_property
    def _brands(self) -> dict[str, int]:
        column = self._base.brands
        return {column[code].decode(): code for code in range(len(column))}

    def knows_category(self, path: str) -> bool:
        """Whether an item of the catalogue has this category or one below it."""
        return bool(self.in_category(path).any())

    def in_category(self, path: str) -> Mask:
        """`(n,)` bool: items whose category is `path` or lies below it."""
        known = self._below.get(path)
        if known is None:
            deeper = f"{path} > "
            below = [name == path or name.startswith(deeper) for name in self._categories]
            # Item codes are -1 where unknown, which reads the last entry: no category at all.
            known = np.array([*below, False], dtype=np.bool_)[self.category]
            if len(self._below) < MAX_CATEGORY_MASKS and known.any():
                self._below[path] = known
        return known

    def of_brand(self, brand: str) -> Mask:
        """`(n,)` bool: items of a brand."""
        return np.asarray(self.brand == self._brands.get(brand, UNKNOWN))

    @cached_property
    def _search_text(self) -> tuple[str, list[int]]:
        titles = self._base.titles
        lowered = [orjson.loads(titles[row]).lower().replace("\n", " ") for row in range(self._base.n_listed)]
        starts, position = [], 0
        for title in lowered:
            starts.append(position)
            position += len(title) + 1
        return "\n".join(lowered), starts

    def search(self, words: str, limit: int) -> list[int]:
        """Rows of available items whose title holds every word: those that joined, then the most popular."""
        wanted = sorted(words.lower().split(), key=len, reverse=True)
        if not wanted:
            return []
        mask = self._search_bundle(wanted)
        for row, title in self._titles.items():
            lowered = title.lower()
            mask[row] = all(word in lowered for word in wanted)
        mask &= self.available
        new = [row for row in self.newest if mask[row]][:limit]
        mask[new] = False
        popular = self._popularity.recommend(Query(), limit - len(new), mask).items
        return [*new, *popular.tolist()]

    def _search_bundle(self, wanted: Sequence[str]) -> Mask:
        text, starts = self._search_text
        mask = np.zeros(len(self.available), dtype=np.bool_)
        position = text.find(wanted[0])
        while position >= 0:
            row = bisect_right(starts, position) - 1
            end = starts[row + 1] if row + 1 < len(starts) else len(text)
            mask[row] = all(text.find(word, starts[row], end) >= 0 for word in wanted[1:])
            position = text.find(wanted[0], end)
        return mask

    # Changing

    def follow(self) -> None:
        """Read on in the log. Costs one look at the file's size where nothing has happened."""
        size = self._log.size()
        if size == self._position:
            return
        if size < self._position:
            logger.error("the catalogue log is shorter than what was read of it: it is read from its beginning")
            self._position = 0
        changes, self._position = self._log.read(self._position)
        for change in changes:
            try:
                self._apply(change)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                # Not ours: written by hand. What follows it must not be lost with it.
                logger.exception("a change of the catalogue is passed over: %r", str(change)[:200])

    def _apply(self, change: dict[str, Any]) -> None:
        self._mark(change)
        if change["kind"] == "item":
            self._put(Item.model_validate(change["item"]).model_dump())
        elif change["kind"] == "set":
            self._set(change["item_ids"], change.get("available"), change.get("price_cents"))
        elif change["kind"] == "delete":
            self._set(change["item_ids"], False, None)
            for item_id in change["item_ids"]:
                self._withdraw(self.row(item_id))

    def _withdraw(self, row: int) -> None:
        """Let a row be new no longer, so that it is new again where a `PUT` brings it back."""
        if row in self.newest:
            self.newest.remove(row)
            if self._content is not None:
                self._content.withdraw(row)

    def _mark(self, change: dict[str, Any]) -> None:
        """Remember what is deleted."""
        if change.get("kind") == "delete":
            self.deleted.update(change["item_ids"])
        elif change.get("kind") == "item":
            self.deleted.discard(change["item"].get("item_id"))

    def _put(self, item: dict[str, Any]) -> None:
        row = self._row_for(item["item_id"])
        if row == NO_ITEM:
            self._waiting[item["item_id"]] = item
            return
        self.category[row] = self._code(self._categories, item["category"])
        self.brand[row] = self._code(self._brands, item["brand"])
        self.price_cents[row] = -1 if item["price_cents"] is None else item["price_cents"]
        self.available[row] = item["available"]
        self._titles[row] = item["title"] or item["item_id"]
        self._fragments[row] = self._write(row, item)
        self._below.clear()
        self.revision += 1
        is_new = row >= self._base.n_listed
        if is_new and row not in self.newest:
            self.newest.insert(0, row)
        if self._content is not None:
            self._content.put(row, content_of(item), is_new=is_new)

    def _row_for(self, item_id: str) -> int:
        """The item's row, a spare one where it is new, `NO_ITEM` where none is left."""
        row = self.row(item_id)
        if row != NO_ITEM:
            return row
        row = self.n_items
        if row >= len(self._base):
            return NO_ITEM
        self._joined[item_id] = row
        self._joined_ids.append(item_id)
        hashes = np.append(self._joined_index.hashes, np.uint64(hash_id(item_id)))
        rows = np.append(self._joined_index.rows, np.int32(row))
        order = np.argsort(hashes, kind="stable")
        self._joined_index = HashIndex(hashes[order], rows[order])
        return row

    @staticmethod
    def _code(codes: dict[str, int], name: str | None) -> int:
        return -1 if name is None else codes.setdefault(name, len(codes))

    def _set(self, item_ids: Sequence[str], available: bool | None, prices: Sequence[int | None] | None) -> None:
        for item_id, price in zip(item_ids, prices or (None,) * len(item_ids), strict=True):
            row = self.row(item_id)
            if available and item_id in self.deleted:
                continue
            if row == NO_ITEM:
                item = self._waiting.get(item_id)
                if item is not None:
                    item["available"] = item["available"] if available is None else available
                    item["price_cents"] = item["price_cents"] if price is None else price
                continue
            if available is not None:
                self.available[row] = available
            if price is not None:
                self.revision += 1
                self.price_cents[row] = price
                self._fragments[row] = self._write(row, orjson.loads(b"{%b}" % self.fragment(row)))

    def _write(self, row: int, item: dict[str, Any]) -> bytes:
        """The members that `recsys.pack` writes, of the item as it is now."""
        cents = int(self.price_cents[row])
        members = {
            "item_id": item["item_id"],
            "title": item["title"] or item["item_id"],
            "brand": item["brand"],
            "category": item["category"],
            "price_cents": cents if cents >= 0 else None,
            "image_url": item["image_url"],
        }
        return orjson.dumps(members)[1:-1]


def _order_of(model: Model, name: str) -> list[int]:
    """The items of the fixed order of a name in a tree of models; none where there is no such order."""
    if isinstance(model, OrderModel):
        return model.order.tolist() if model.name == name else []
    return next((found for part in model.state().parts if (found := _order_of(part, name))), [])


def content_of(item: dict[str, Any]) -> ItemContent:
    """What a stored item says of its content."""
    return ItemContent(
        title=item["title"],
        description=item["description"],
        category=item["category"],
        brand=item["brand"],
        price_cents=item["price_cents"],
        attributes=item["attributes"],
    )
