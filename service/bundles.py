"""The live bundle: loaded, tested, and swapped in one assignment when the pointer moves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from recsys.bundle import Bundle, BundleError, load_bundle, smoke_test
from recsys.events import Surface
from recsys.publish import live_version
from recsys.ranking import Model, Query
from service.catalogue import LiveCatalogue
from service.catalogue_log import CatalogueLog
from service.ladder import simplified

logger = logging.getLogger(__name__)

POPULAR_ITEMS = 100


@dataclass(frozen=True)
class LiveBundle:
    """A bundle with its catalogue as it is now, and what the hot path wants ready."""

    bundle: Bundle
    catalogue: LiveCatalogue
    plain: bool = False
    """Whether its models alone answer: no share of the places is kept for what joined, or is wanted right now."""
    against: Bundle | None = None
    """Another bundle of the same rows, whose answers are interleaved with its own."""
    simple: Mapping[Surface, Model] = field(init=False)
    """Each surface's model without its costly parts: what answers under load, or to a shopper of whom nothing can be read."""
    head: bytes = field(init=False)
    """The constant members of every answer, as JSON."""
    currency: bytes = field(init=False)
    """The currency as a JSON string."""

    def __post_init__(self) -> None:
        simple = {surface: simplified(model) for surface, model in self.bundle.surfaces.items()}
        object.__setattr__(self, "simple", simple)
        currency = self.bundle.manifest["currency"]
        constant = {"model_version": self.bundle.version, "phase": self.bundle.phase, "currency": currency}
        object.__setattr__(self, "head", orjson.dumps(constant)[1:-1])
        object.__setattr__(self, "currency", orjson.dumps(currency))

    def popular_ids(self) -> list[str]:
        """Ids of the most popular items."""
        items = self.bundle.popularity.recommend(Query(), POPULAR_ITEMS, self.catalogue.available).items
        return [self.catalogue.item_id(int(row)) for row in items]


class BundleHolder:
    """The live bundle of this process. It watches the pointer; a bundle that fails keeps the old one live."""

    def __init__(self, bundles: Path, log: CatalogueLog, on_refused: Callable[[], None] = lambda: None) -> None:
        """Load what the pointer names.

        Raises:
            BundleError: nothing is published, or it is damaged.
        """
        version = live_version(bundles)
        if version is None:
            raise BundleError(f"no bundle is live in {bundles}: run `recsys train --phase 1 --publish` first")
        self.folder = bundles
        self._log = log
        self._on_refused = on_refused
        self._refused: str | None = None
        self._live = self._load(version)
        self._beside: dict[str, LiveBundle] = {}

    @property
    def live(self) -> LiveBundle:
        """What answers now, knowing all that the catalogue API was told until now, by whichever worker."""
        return self.followed(self._live)

    @staticmethod
    def followed(live: LiveBundle) -> LiveBundle:
        """The same, knowing all that the catalogue API was told until now."""
        try:
            live.catalogue.follow()
        except OSError:
            logger.exception("the catalogue log cannot be read: answers go on without what is new in it")
        return live

    def beside(self, versions: Iterable[str]) -> dict[str, LiveBundle]:
        """These bundles by version, the live one among them or not; others that were loaded for an earlier call are let go.

        Raises:
            BundleError: one of them is missing or damaged; what was loaded stays.
        """
        known = {**self._beside, self._live.bundle.version: self._live}
        found = {version: known.get(version) or self._load(version) for version in versions}
        self._beside = found
        return found

    async def reload(self) -> bool:
        """Swap to the bundle that the pointer names, if it is another one; whether it was."""
        version = live_version(self.folder)
        if version is None or version in (self._live.bundle.version, self._refused):
            return False
        try:
            self._live = await asyncio.to_thread(self._load, version)
        except (BundleError, OSError) as error:
            self._refused = version
            self._on_refused()
            logger.error("bundle %s is refused, %s stays live: %s", version, self._live.bundle.version, error)  # noqa: TRY400
            return False
        self._refused = None
        logger.info("bundle %s is live", version)
        return True

    def _load(self, version: str) -> LiveBundle:
        """Load, verify and try a bundle.

        Raises:
            BundleError: it is damaged or answers wrongly.
        """
        bundle = load_bundle(self.folder / version)
        smoke_test(bundle)
        return LiveBundle(bundle, LiveCatalogue(bundle, self._log))
