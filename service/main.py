"""What each worker process runs: the application, wired from the environment."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp

from recsys.errors import UserError
from recsys.privacy.deletions import Deletions
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.privacy.tombstones import Tombstones
from recsys.store.database import database_url, open_database
from recsys.tables import CATALOGUE_LOG
from service.app import create_app
from service.arms import Arms
from service.bundles import BundleHolder
from service.catalogue_log import CatalogueLog
from service.event_log import EventLog
from service.keys import KeysHolder, keys_path, require_keys
from service.metrics import Metrics
from service.privacy import Privacy
from service.rate_limits import RateLimiter, RateLimits
from service.rules import RulesHolder
from service.session_store import SessionStore
from service.settings import Settings
from service.trial import trial_on_log


def app_from_settings() -> ASGIApp:
    """The application for the settings in the environment.

    Raises:
        UserError: no Redis is given (`recsys serve` starts one), no bundle is live, or the rules, the experiments or the keys cannot be used.
    """
    settings = Settings()
    if settings.redis_url is None:
        raise UserError("REDIS_URL is not set; `recsys serve` starts an embedded Redis and sets it")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    app = wire(settings, Metrics(settings.shop), time.time)
    # What is there by now stays, libraries most of all: to go through it for garbage takes a fifth of a second, in which nobody is answered.
    gc.freeze()
    gc.enable()
    return app


def wire(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> ASGIApp:
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
    pseudonyms = Pseudonyms(settings.data_dir, settings.privacy_key)
    tombstones = Tombstones(settings.data_dir, pseudonyms)
    tombstones.check()
    trial = trial_on_log(engine, settings.smoke_requests)
    holder = BundleHolder(settings.data_dir / "bundles", catalogue_log, metrics.refused, trial, tombstones)
    rules = RulesHolder(settings.rules, metrics)
    arms = Arms(settings.experiments, holder, rules, metrics)
    require_keys(settings)
    limiter = RateLimiter(
        settings.redis_url,
        shop=settings.shop,
        timeout_ms=settings.redis_timeout_ms,
        retry_ms=settings.redis_retry_ms,
    )
    rates = RateLimits(limiter, settings)
    keys = KeysHolder(keys_path(settings), metrics)
    privacy = Privacy(engine, Deletions(settings.data_dir, pseudonyms), tombstones, settings, clock)
    return create_app(holder, store, log, catalogue_log, rules, arms, keys, privacy, metrics, rates, settings, clock)
