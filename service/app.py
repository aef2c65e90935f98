"""The application: everything wired once, then the routes. `create_app` is the service's composition root."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from service.answering import Answering
from service.arms import Arms
from service.bundles import BundleHolder
from service.catalogue_api import CatalogueEditor
from service.catalogue_log import CatalogueLog
from service.event_log import EventLog
from service.events import Intake
from service.healing import HEAL_SECONDS, Healer
from service.metrics import Metrics
from service.routes import Routes
from service.rules import RulesHolder
from service.session_store import SessionStore, StoreUnavailableError
from service.settings import Settings

WEB: Final = Path(__file__).parent / "web"
TREND_ITEMS: Final = 100

logger = logging.getLogger(__name__)


def create_app(
    holder: BundleHolder,
    store: SessionStore,
    log: EventLog,
    catalogue_log: CatalogueLog,
    rules: RulesHolder,
    arms: Arms,
    metrics: Metrics,
    settings: Settings,
    clock: Callable[[], float],
) -> FastAPI:
    """Wire the service. `clock` gives Unix time."""
    answering = Answering(store, log, arms, metrics, clock)
    intake = Intake(store, log, metrics, clock)
    healer = Healer(log.engine, store, clock)
    editor = CatalogueEditor(holder, catalogue_log, metrics, clock)

    async def look_after_bundle() -> None:
        if await holder.reload():
            await store.publish_popular(holder.live.bundle.version, holder.live.popular_ids())
        await rules.reload()
        await arms.reload()
        rules.forget([holder.live.catalogue, *arms.catalogues])

    async def look_after_redis() -> None:
        try:
            trend = await store.trend(clock(), TREND_ITEMS)
        except StoreUnavailableError:
            return  # the last list stays
        answering.trend = tuple(trend)

    async def look_after_metrics() -> None:
        created = datetime.fromisoformat(holder.live.bundle.manifest["created_at"]).astimezone(UTC).timestamp()
        metrics.state(
            bundle_age_seconds=clock() - created,
            behind=store.behind_since is not None,
            waiting=holder.live.catalogue.n_waiting,
        )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await log.start()
        await store.publish_popular(holder.live.bundle.version, holder.live.popular_ids())
        tasks = [
            asyncio.create_task(_every(settings.reload_seconds, look_after_bundle), name="bundle"),
            asyncio.create_task(_every(settings.trend_refresh_seconds, look_after_redis), name="redis"),
            asyncio.create_task(_every(HEAL_SECONDS, healer.look), name="healing"),
            asyncio.create_task(_every(1.0, look_after_metrics), name="metrics"),
        ]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await log.stop()
        await store.close()

    # As FastAPI, with the assets of /docs served from here instead of from a CDN.
    app = FastAPIOffline(
        title="recsys",
        redoc_url=None,
        summary="Product recommendations with their reasons.",
        description="`/recommend` answers, `/events` learns; the next answer knows what was accepted.",
        version=holder.live.bundle.version,
        lifespan=lifespan,
    )
    app.include_router(Routes(holder, answering, intake, editor, log, metrics, settings).router)
    app.mount("/", StaticFiles(directory=WEB, html=True), name="storefront")
    return app


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again; a failure is logged and does not end it."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("%s failed", getattr(work, "__name__", work))
        await asyncio.sleep(seconds)
