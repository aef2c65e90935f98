"""The bundles of this process: the live one, swapped in one assignment when the pointer moves, the one before it, the canary, the shadow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from recsys.bundle import Bundle, BundleError, Flaw, load_bundle, require_name, smoke_test
from recsys.compose import reads_history
from recsys.events import Surface
from recsys.privacy.tombstones import Tombstones
from recsys.publish import Role, TrafficShare, live_version, may_answer, rollback_target, traffic_share
from recsys.ranking import Model, Query
from service.catalogue import LiveCatalogue
from service.catalogue_log import CatalogueLog
from service.ladder import simplified
from service.veil import veiled
from service.watched import Stamp, stamp_of

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
    personal: frozenset[Surface] = field(init=False)
    """Surfaces that answer from the shopper's history; the others need nothing from Redis."""
    head: bytes = field(init=False)
    """The constant members of every answer, as JSON."""
    currency: bytes = field(init=False)
    """The currency as a JSON string."""

    def __post_init__(self) -> None:
        simple = {surface: simplified(model) for surface, model in self.bundle.surfaces.items()}
        object.__setattr__(self, "simple", simple)
        answering = [self.bundle, *([] if self.against is None else [self.against])]
        personal = frozenset(
            surface for one in answering for surface, model in one.surfaces.items() if reads_history(model)
        )
        object.__setattr__(self, "personal", personal)
        currency = self.bundle.manifest["currency"]
        constant = {"model_version": self.bundle.version, "phase": self.bundle.phase, "currency": currency}
        object.__setattr__(self, "head", orjson.dumps(constant)[1:-1])
        object.__setattr__(self, "currency", orjson.dumps(currency))

    def popular_ids(self) -> list[str]:
        """Ids of the most popular items."""
        items = self.bundle.popularity.recommend(Query(), POPULAR_ITEMS, self.catalogue.available).items
        return [self.catalogue.item_id(int(row)) for row in items]


Trial = Callable[[LiveBundle, LiveBundle], Awaitable[None]]
"""Tries a loaded bundle, the first, that would take the place of another; raises a `BundleError` where it should not."""


async def no_trial(_candidate: LiveBundle, _live: LiveBundle) -> None:
    """Everything may go live."""


@dataclass(frozen=True, slots=True)
class CanaryBundle:
    """What a share of the shoppers gets."""

    pointer: TrafficShare
    live: LiveBundle


class BundleHolder:
    """The bundles that answer in this process. It watches the pointers; a bundle that fails keeps the one before it live.

    What a rollback would bring back, and what the last swap took away, stay loaded: going back is one assignment.
    """

    def __init__(
        self,
        bundles: Path,
        log: CatalogueLog,
        on_refused: Callable[[Flaw], None] = lambda _: None,
        trial: Trial = no_trial,
        tombstones: Tombstones | None = None,
    ) -> None:
        """Load what the pointer names; where it cannot be used, the last bundle that was live before it. Nobody in the `tombstones` is known to it.

        Raises:
            BundleError: nothing is published, or nothing that was can be used.
        """
        self.folder = bundles
        self._log = log
        self._tombstones = tombstones
        self._on_refused = on_refused
        self._trial = trial
        self._refused: dict[str, tuple[Stamp, str]] = {}
        """By version or pointer, as it was when it was refused, and why."""
        self.trouble = ""
        """Why something other than what the pointers name answers; empty where nothing is wrong."""
        self.stale = False
        """Whether the live bundle is older than it should be; whoever knows the time says so."""
        self._beside: dict[str, LiveBundle] = {}
        self._live = self._first()
        self._kept: dict[str, LiveBundle] = {}
        self._left: str | None = None
        """What was live before the last swap."""
        self._prepared: Stamp = None
        """The ledger for which `_kept` is right."""
        self.canary: CanaryBundle | None = None
        self.shadow: TrafficShare | None = None

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

    @property
    def loaded(self) -> dict[str, LiveBundle]:
        """All that is in memory, by version."""
        canary = () if self.canary is None else (self.canary.live,)
        return self._beside | self._kept | {one.bundle.version: one for one in (*canary, self._live)}

    def beside(self, versions: Iterable[str]) -> dict[str, LiveBundle]:
        """These bundles by version, the live one among them or not; others that were loaded for an earlier call are let go.

        Raises:
            BundleError: one of them is missing or damaged; what was loaded stays.
        """
        known = self.loaded
        found = {version: known.get(version) or self._load(version) for version in versions}
        self._beside = found
        return found

    async def reload(self) -> bool:
        """Follow the pointers; whether another bundle is live."""
        self.trouble = ""
        before = self._live
        await self._follow_live()
        await self._follow_canary()
        self.shadow = self._pointer("shadow")
        await self._prepare()
        return self._live is not before

    async def _follow_live(self) -> None:
        try:
            version = live_version(self.folder)
        except (BundleError, OSError) as error:
            self._refuse("live", error, stamp_of(self.folder / "live"))
            return
        if version is None or version == self._live.bundle.version:
            return
        found = await self._tried(version)
        if found is not None:
            self._left = self._live.bundle.version
            self._kept[self._left], self._live = self._live, found
            logger.info("bundle %s is live", version)

    async def _follow_canary(self) -> None:
        pointer = self._pointer("canary")
        if pointer is None or pointer.version == self._live.bundle.version:
            self.canary = None
        elif self.canary is None or self.canary.pointer != pointer:
            found = await self._tried(pointer.version)
            self.canary = None if found is None else CanaryBundle(pointer, found)

    def _pointer(self, role: Role) -> TrafficShare | None:
        try:
            return traffic_share(self.folder, role)
        except (BundleError, OSError) as error:
            self._refuse(role, error, stamp_of(self.folder / role))
            return None

    async def _prepare(self) -> None:
        """Load what a rollback would bring back, and let go of what nothing would. That was live before: it is not tried again."""
        ledger = stamp_of(self.folder / "ledger.jsonl")
        if ledger == self._prepared:
            return
        try:
            wanted = await asyncio.to_thread(rollback_target, self.folder)
        except (BundleError, OSError):
            return  # the live pointer is in trouble, and that was said
        kept = {version: live for version, live in self._kept.items() if version in (wanted, self._left)}
        if wanted is not None and wanted not in kept:
            try:
                found = self.loaded.get(wanted)
                kept[wanted] = found if found is not None else await asyncio.to_thread(self._load, wanted)
            except (BundleError, OSError) as error:
                self._refuse(wanted, error, stamp_of(self.folder / wanted / "manifest.json"))
        self._kept, self._prepared = kept, ledger

    def _first(self) -> LiveBundle:
        first: BundleError | OSError | None = None
        for version in may_answer(self.folder):
            try:
                return self._load(version)
            except (BundleError, OSError) as error:
                first = first or error
                self._refuse(version, error, stamp_of(self.folder / version / "manifest.json"))
        assert first is not None
        raise first

    async def _tried(self, version: str) -> LiveBundle | None:
        """A bundle that may answer; None where it is refused, or was so before and has not changed since."""
        stamp = stamp_of(self.folder / version / "manifest.json")
        known, refused = self.loaded.get(version), self._refused.get(version)
        if known is not None:
            return known
        if refused is not None and refused[0] == stamp:
            self.trouble = refused[1]
            return None
        try:
            found = await asyncio.to_thread(self._load, version)
            await self._trial(found, self.live)
        except (BundleError, OSError) as error:
            self._refuse(version, error, stamp)
            return None
        self._refused.pop(version, None)
        return found

    def _refuse(self, what: str, error: BundleError | OSError, stamp: Stamp) -> None:
        """Count and log it, once for each state of what is refused."""
        flaw = error.flaw if isinstance(error, BundleError) else Flaw.UNREADABLE
        # Anybody may ask whether the service is ready: where its files lie is for the log.
        self.trouble = f"{what} is refused: {flaw}"
        if self._refused.get(what) == (stamp, self.trouble):
            return
        self._refused[what] = (stamp, self.trouble)
        self._on_refused(flaw)
        logger.error("%s is refused: %s", what, error)

    def _load(self, version: str) -> LiveBundle:
        """Load, verify and try a bundle.

        Raises:
            BundleError: it is damaged or answers wrongly.
        """
        bundle = load_bundle(self.folder / require_name(version))
        smoke_test(bundle)
        if self._tombstones is not None:
            bundle = veiled(bundle, self._tombstones)
        return LiveBundle(bundle, LiveCatalogue(bundle, self._log))
