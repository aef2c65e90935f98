"""The application: everything wired once, then the routes. `create_app` is the service's composition root."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from service.admission import Admission
from service.answering import Answering
from service.arms import Arms
from service.bundles import BundleHolder
from service.catalogue_api import CatalogueEditor
from service.catalogue_log import CatalogueLog
from service.event_log import EventLog
from service.events import Intake
from service.load import Load
from service.metrics import Metrics
from service.presence import Presence, share_of
from service.routes import Routes
from service.rules import RulesHolder
from service.session_store import SessionStore
from service.settings import Settings
from service.upkeep import Upkeep

WEB: Final = Path(__file__).parent / "web"


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
    editor = CatalogueEditor(holder, catalogue_log, metrics, clock)
    load = Load(time.monotonic, queue_seconds=settings.queue_ms / 1_000, most_inside=settings.max_inside)
    presence = Presence(drain_seconds=settings.drain_seconds, most_requests=share_of(settings.worker_requests))
    upkeep = Upkeep(holder, store, log, rules, arms, answering, load, presence, metrics, settings, clock)

    # As FastAPI, with the assets of /docs served from here instead of from a CDN.
    app = FastAPIOffline(
        title="recsys",
        redoc_url=None,
        summary="Product recommendations with their reasons.",
        description="`/recommend` answers, `/events` learns; the next answer knows what was accepted.",
        version=holder.live.bundle.version,
        lifespan=lambda _: upkeep.running(),
    )
    app.include_router(Routes(holder, answering, intake, editor, log, presence, metrics, settings).router)
    app.add_middleware(
        Admission,
        load=load,
        metrics=metrics,
        clock=time.monotonic,
        deadline_ms=settings.deadline_ms,
        presence=presence,
    )
    app.mount("/", StaticFiles(directory=WEB, html=True), name="storefront")
    return app
