"""The live bundle: loaded, tested, and swapped in one assignment when the pointer moves."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson

from recsys.bundle import Bundle, BundleError, load_bundle, smoke_test
from recsys.publish import live_version
from recsys.ranking import Mask, Query

logger = logging.getLogger(__name__)

POPULAR_ITEMS = 100


@dataclass(frozen=True)
class LiveBundle:
    """A bundle with what the hot path wants ready."""

    bundle: Bundle
    available: Mask = field(init=False)
    """`(n_items,)` bool in memory; copied, never changed, by a request."""
    head: bytes = field(init=False)
    """The constant members of every answer, as JSON."""
    currency: bytes = field(init=False)
    """The currency as a JSON string."""

    def __post_init__(self) -> None:
        currency = self.bundle.manifest["currency"]
        constant = {"model_version": self.bundle.version, "phase": self.bundle.phase, "currency": currency}
        object.__setattr__(self, "available", np.array(self.bundle.catalogue.available))
        object.__setattr__(self, "head", orjson.dumps(constant)[1:-1])
        object.__setattr__(self, "currency", orjson.dumps(currency))

    @cached_property
    def category_names(self) -> tuple[str, ...]:
        """Full category paths by code."""
        column = self.bundle.catalogue.categories
        return tuple(column[code].decode() for code in range(len(column)))

    @cached_property
    def brand_codes(self) -> dict[str, int]:
        """Brand to code."""
        column = self.bundle.catalogue.brands
        return {column[code].decode(): code for code in range(len(column))}

    @cached_property
    def _categories_below(self) -> dict[str, Mask]:
        return {}

    def in_category(self, path: str) -> Mask:
        """`(n_items,)` bool: items whose category is `path` or lies below it."""
        known = self._categories_below.get(path)
        if known is None:
            below = [name == path or name.startswith(f"{path} > ") for name in self.category_names]
            # Item codes are -1 where unknown, which reads the last entry: no category at all.
            known = np.array([*below, False], dtype=np.bool_)[self.bundle.catalogue.category]
            if len(self._categories_below) < 256 and known.any():
                self._categories_below[path] = known
        return known

    @cached_property
    def _search_text(self) -> tuple[str, list[int]]:
        titles = self.bundle.catalogue.titles
        lowered = [orjson.loads(titles[row]).lower().replace("\n", " ") for row in range(len(titles))]
        starts, position = [], 0
        for title in lowered:
            starts.append(position)
            position += len(title) + 1
        return "\n".join(lowered), starts

    def search(self, words: str, limit: int) -> list[int]:
        """Rows of available items whose title holds every word, the most popular first."""
        text, starts = self._search_text
        wanted = sorted(words.lower().split(), key=len, reverse=True)
        if not wanted:
            return []
        mask = np.zeros(len(self.available), dtype=np.bool_)
        position = text.find(wanted[0])
        while position >= 0:
            row = bisect_right(starts, position) - 1
            end = starts[row + 1] if row + 1 < len(starts) else len(text)
            mask[row] = all(text.find(word, starts[row], end) >= 0 for word in wanted[1:])
            position = text.find(wanted[0], end)
        return [int(row) for row in self.bundle.popularity.recommend(Query(), limit, mask & self.available).items]

    def popular_ids(self) -> list[str]:
        """Ids of the most popular items."""
        items = self.bundle.popularity.recommend(Query(), POPULAR_ITEMS, self.available).items
        return [self.bundle.catalogue.item_id(int(row)) for row in items]


def load_live(bundles: Path, version: str) -> LiveBundle:
    """Load, verify and try a bundle.

    Raises:
        BundleError: it is damaged or answers wrongly.
    """
    bundle = load_bundle(bundles / version)
    smoke_test(bundle)
    return LiveBundle(bundle)


class BundleHolder:
    """The live bundle of this process. It watches the pointer; a bundle that fails keeps the old one live."""

    def __init__(self, bundles: Path, on_refused: Callable[[], None] = lambda: None) -> None:
        """Load what the pointer names.

        Raises:
            BundleError: nothing is published, or it is damaged.
        """
        version = live_version(bundles)
        if version is None:
            raise BundleError(f"no bundle is live in {bundles}: run `recsys train --phase 1 --publish` first")
        self._bundles = bundles
        self._on_refused = on_refused
        self._refused: str | None = None
        self.live = load_live(bundles, version)

    async def reload(self) -> bool:
        """Swap to the bundle that the pointer names, if it is another one; whether it was."""
        version = live_version(self._bundles)
        if version is None or version in (self.live.bundle.version, self._refused):
            return False
        try:
            self.live = await asyncio.to_thread(load_live, self._bundles, version)
        except (BundleError, OSError) as error:
            self._refused = version
            self._on_refused()
            logger.error("bundle %s is refused, %s stays live: %s", version, self.live.bundle.version, error)  # noqa: TRY400
            return False
        self._refused = None
        logger.info("bundle %s is live", version)
        return True
