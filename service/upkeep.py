"""What the service looks after in the background: the bundle, rules and arms, the trend, Redis' histories, the gauges."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from recsys.privacy.tombstones import LOOK_SECONDS
from service.answering import Answering
from service.answers import Shopper
from service.arms import Arms
from service.bundles import BundleHolder
from service.event_log import EventLog
from service.guardrail import Guardrail
from service.healing import HEAL_SECONDS, Healer
from service.keys import KeysHolder
from service.load import Load
from service.metrics import Metrics
from service.presence import Presence
from service.privacy import PRIVACY_SECONDS, Privacy
from service.rate_limits import RateLimits
from service.replay import sampled
from service.rules import RulesHolder
from service.session_store import SessionStore, StoreUnavailableError
from service.settings import Settings
from service.shadow import Shadow

TREND_ITEMS: Final = 100
SECONDS_A_DAY: Final = 86_400
WARM_UP_ANSWERS: Final = 28
"""Four for each surface."""
CANCEL_SECONDS: Final = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upkeep:
    """All of it, from the start of the application to its end."""

    holder: BundleHolder
    store: SessionStore
    log: EventLog
    rules: RulesHolder
    arms: Arms
    keys: KeysHolder
    rates: RateLimits
    answering: Answering
    privacy: Privacy
    guardrail: Guardrail
    shadow: Shadow
    load: Load
    presence: Presence
    metrics: Metrics
    settings: Settings
    clock: Callable[[], float]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after everything while the block runs; then write and close what is open."""
        await self.log.start()
        await self._publish_popular()
        await self._warm_up()
        healer = Healer(self.log.engine, self.store, self.clock)
        tasks = [
            asyncio.create_task(_every(self.settings.reload_seconds, self._bundle), name="bundle"),
            asyncio.create_task(_every(self.settings.trend_refresh_seconds, self._trend), name="trend"),
            asyncio.create_task(_every(HEAL_SECONDS, healer.look), name="healing"),
            asyncio.create_task(_every(1.0, self._gauges), name="metrics"),
            asyncio.create_task(_every(LOOK_SECONDS, self._tombstones), name="tombstones"),
            asyncio.create_task(_every(PRIVACY_SECONDS, self.privacy.look), name="privacy"),
            asyncio.create_task(_every(1.0, self.guardrail.look), name="guardrails"),
            asyncio.create_task(
                _every(self.settings.guardrail_ctr_seconds, self.guardrail.look_at_clicks), name="clicks"
            ),
            asyncio.create_task(_every(self.settings.reload_seconds, self.shadow.run), name="shadow"),
            asyncio.create_task(_every(1.0, self.presence.look), name="presence"),
            asyncio.create_task(self.load.watch(), name="load"),
        ]
        with self.presence.shown():
            yield
        await ended(tasks)
        self.guardrail.close()
        await self.log.stop()
        await self.store.close()
        await self.rates.close()

    async def _warm_up(self) -> None:
        """Answer some questions that nobody asked, so that the first shopper does not wait for pages of the bundle, and for Redis' door."""
        live, clock = self.holder.live, self.clock
        for replayed in sampled(live, WARM_UP_ANSWERS, clock()):
            self.answering.rank(live, replayed.request, replayed.shopper)
            self.answering.rank(live, replayed.request, Shopper())
        try:
            await self.store.histories("nobody", None)
        except StoreUnavailableError:
            logger.warning("Redis does not answer at the start: answers go on without it")

    async def _publish_popular(self) -> None:
        await self.store.publish_popular(self.holder.live.bundle.version, self.holder.live.popular_ids())

    async def _bundle(self) -> None:
        if await self.holder.reload():
            await self._publish_popular()
        await self.rules.reload()
        self.shadow.follow(self.holder.shadow)
        await self.arms.reload()
        await self.keys.reload()
        self.rules.forget([self.holder.live.catalogue, *self.arms.catalogues])

    async def _tombstones(self) -> None:
        """Know whom others have deleted; what was said to them is forgotten with all that was said."""
        known = len(self.privacy.tombstones)
        await self.privacy.follow()
        if len(self.privacy.tombstones) != known:
            self.answering.forget()

    async def _trend(self) -> None:
        try:
            trend = await self.store.trend(self.clock(), TREND_ITEMS)
        except StoreUnavailableError:
            return  # the last list stays
        self.answering.trend = tuple(trend)

    async def _gauges(self) -> None:
        created = datetime.fromisoformat(self.holder.live.bundle.manifest["created_at"]).astimezone(UTC).timestamp()
        stale = self.clock() - created > self.settings.bundle_stale_days * SECONDS_A_DAY
        self.metrics.lifecycle(stale=stale, canary_share=self.arms.canary_share)
        self.holder.stale = stale
        self.metrics.state(
            bundle_age_seconds=self.clock() - created,
            behind=self.store.behind_since is not None,
            waiting=self.holder.live.catalogue.n_waiting,
            load_level=self.load.level,
        )


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again; a failure is logged and does not end it."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("%s failed", getattr(work, "__name__", work))
        await asyncio.sleep(seconds)


async def ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel them, and return when all have ended.

    Whoever goes on is told again: in Python 3.11 `asyncio.wait_for`, with which redis-py sends, forgets a cancellation that comes just
    as its work is done, and the service would not stop.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_SECONDS)
        if running:
            logger.warning("told to end again: %s", ", ".join(sorted(task.get_name() for task in running)))
    await asyncio.gather(*tasks, return_exceptions=True)
