"""The application: everything wired once, then the routes. `create_app` is the service's composition root."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from service.access import Access, storefront_pages
from service.admission import HEADER as DEADLINE
from service.admission import Admission
from service.answering import Answering
from service.arms import Arms
from service.bundles import BundleHolder
from service.catalogue_api import CatalogueEditor
from service.catalogue_log import CatalogueLog
from service.direct import Direct
from service.event_log import EventLog
from service.events import Intake
from service.guard import Guard
from service.guardrail import Guardrail
from service.headers import SecurityHeaders
from service.keys import KeysHolder
from service.load import Load
from service.metrics import Metrics
from service.openapi import documented
from service.presence import Presence, share_of
from service.privacy import Privacy
from service.privacy_api import PrivacyRoutes
from service.rate_limits import RateLimits
from service.routes import Routes, gone, misasked
from service.rules import RulesHolder
from service.session_store import SessionStore
from service.settings import Settings
from service.shadow import Shadow
from service.upkeep import Upkeep

WEB: Final = Path(__file__).parent / "web"


def create_app(
    holder: BundleHolder,
    store: SessionStore,
    log: EventLog,
    catalogue_log: CatalogueLog,
    rules: RulesHolder,
    arms: Arms,
    keys: KeysHolder,
    privacy: Privacy,
    metrics: Metrics,
    rates: RateLimits,
    settings: Settings,
    clock: Callable[[], float],
) -> ASGIApp:
    """Wire the service. `clock` gives Unix time."""
    answering = Answering(store, log, arms, metrics, clock)
    intake = Intake(store, log, metrics, clock, privacy.tombstones)
    editor = CatalogueEditor(holder, catalogue_log, metrics, clock)
    guardrail = Guardrail(holder.folder, log.engine, lambda: arms.watched, arms.stop_canary, metrics, settings)
    arms.shadow = shadow = Shadow(settings, metrics, clock)
    load = Load(time.monotonic, queue_seconds=settings.queue_ms / 1_000, most_inside=settings.max_inside)
    presence = Presence(drain_seconds=settings.drain_seconds, most_requests=share_of(settings.worker_requests))
    upkeep = Upkeep(
        holder=holder,
        store=store,
        log=log,
        rules=rules,
        arms=arms,
        keys=keys,
        rates=rates,
        answering=answering,
        privacy=privacy,
        guardrail=guardrail,
        shadow=shadow,
        load=load,
        presence=presence,
        metrics=metrics,
        settings=settings,
        clock=clock,
    )

    # As FastAPI, with the assets of /docs served from here instead of from a CDN.
    app = FastAPIOffline(
        title="recsys",
        redoc_url=None,
        summary="Product recommendations with their reasons.",
        description="`/recommend` answers, `/events` learns; the next answer knows what was accepted.",
        version=holder.live.bundle.version,
        lifespan=lambda _: upkeep.running(),
    )
    app.add_exception_handler(RequestValidationError, misasked)
    app.add_exception_handler(ClientDisconnect, gone)
    routes = Routes(holder, answering, intake, editor, log, presence, metrics, settings)
    app.include_router(routes.router)
    if settings.privacy_api:
        app.include_router(PrivacyRoutes(privacy, holder).router)
    app.mount("/", StaticFiles(directory=WEB, html=True), name="storefront")
    access = Access(storefront_pages(WEB))
    app.openapi = documented(app, access)  # type: ignore[method-assign]
    # Around FastAPI as a whole, so that the short way to an answer passes nothing of it.
    admitted = Admission(
        Direct(app, routes.recommended),
        load=load,
        metrics=metrics,
        clock=time.monotonic,
        deadline_ms=settings.deadline_ms,
        max_body_bytes=settings.max_body_bytes,
        presence=presence,
    )
    guarded = Guard(admitted, access, keys, rates, metrics)
    return SecurityHeaders(_open_to_sites(guarded, settings), access.pages)


def _open_to_sites(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The same, which answers the pages of the shop's sites that are elsewhere, where there are any."""
    if settings.cors_origins is None:
        return app
    return CORSMiddleware(
        app,
        allow_origins=[origin.strip() for origin in settings.cors_origins.split(",")],
        allow_methods=["GET", "POST"],  # what a widget may
        allow_headers=["authorization", "content-type", DEADLINE.decode()],
        expose_headers=["retry-after"],
    )
