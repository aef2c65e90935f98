"""What each worker process runs: the application, wired from the environment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fastapi import FastAPI

from recsys.errors import UserError
from recsys.store.database import database_url, open_database
from recsys.tables import CATALOGUE_LOG
from service.app import create_app
from service.arms import Arms
from service.bundles import BundleHolder
from service.catalogue_log import CatalogueLog
from service.event_log import EventLog
from service.metrics import Metrics
from service.rules import RulesHolder
from service.session_store import SessionStore
from service.settings import Settings
from service.trial import trial_on_log


def app_from_settings() -> FastAPI:
    """The application for the settings in the environment.

    Raises:
        UserError: no Redis is given (`recsys serve` starts one), no bundle is live, or the rules or the experiments cannot be used.
    """
    settings = Settings()
    if settings.redis_url is None:
        raise UserError("REDIS_URL is not set; `recsys serve` starts an embedded Redis and sets it")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return wire(settings, Metrics(settings.shop), time.time)


def wire(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> FastAPI:
    """The application on what the settings name; `settings.redis_url` must be given.

    Raises:
        UserError: see `app_from_settings`.
    """
    assert settings.redis_url is not None
    store = SessionStore(
        settings.redis_url,
        shop=settings.shop,
        timeout_ms=settings.redis_timeout_ms,
        retry_ms=settings.redis_retry_ms,
        history_events=settings.history_events,
        history_days=settings.history_days,
    )
    engine = open_database(database_url(settings.data_dir, settings.database_url))
    log = EventLog(engine, on_lost=metrics.lost, on_unmatched=metrics.unmatched)
    catalogue_log = CatalogueLog(settings.data_dir / CATALOGUE_LOG)
    trial = trial_on_log(engine, settings.smoke_requests)
    holder = BundleHolder(settings.data_dir / "bundles", catalogue_log, metrics.refused, trial)
    rules = RulesHolder(settings.rules, metrics)
    arms = Arms(settings.experiments, holder, rules, metrics)
    return create_app(holder, store, log, catalogue_log, rules, arms, metrics, settings, clock)
