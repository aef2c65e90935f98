"""Settings of the serving process: environment variables `RECSYS_...`, documented in docs/api.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from limits import parse
from pydantic import AfterValidator, AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis import ConnectionPool

LIMIT_OFF: Final = "off"
DEFAULT_ADDRESS_LIMIT: Final = "600/minute"


def _rate(value: str) -> str:
    if value != LIMIT_OFF:
        try:
            parse(value)
        except ValueError:
            raise ValueError(f"must be a rate as 600/minute or 20/second, or {LIMIT_OFF}") from None
    return value


def _origins(value: str) -> str:
    for origin in map(str.strip, value.split(",")):
        if not re.fullmatch(r"\*|https?://[a-zA-Z0-9.-]+(:\d+)?", origin):
            raise ValueError(f"{origin!r} is no origin as https://shop.example, nor *")
    return value


def _redis(value: str) -> str:
    try:
        ConnectionPool.from_url(value)
    except ValueError:  # its words hold what a wrong address hides, such as a part of the password
        raise ValueError("must be an address as redis://host:6379/0, rediss://... or unix://path") from None
    return value


RedisUrl = Annotated[str, AfterValidator(_redis)]
Origins = Annotated[str, AfterValidator(_origins)]
Rate = Annotated[str, AfterValidator(_rate)]


class Settings(BaseSettings):
    """What an operator may change. Every field is documented in docs/api.md; a test compares the two."""

    model_config = SettingsConfigDict(
        env_prefix="RECSYS_", frozen=True, populate_by_name=True, extra="ignore", hide_input_in_errors=True
    )

    data_dir: Path = Path("data")
    shop: str = Field(default="default", pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    workers: int = Field(default=1, ge=1, le=256)
    redis_url: RedisUrl | None = Field(
        default=None, validation_alias=AliasChoices("RECSYS_REDIS_URL", "REDIS_URL"), repr=False
    )
    database_url: str | None = Field(
        default=None, validation_alias=AliasChoices("RECSYS_DATABASE_URL", "DATABASE_URL"), repr=False
    )
    redis_timeout_ms: int = Field(default=20, ge=1)
    redis_retry_ms: int = Field(default=1_000, ge=1)
    deadline_ms: int = Field(default=100, ge=1, le=60_000)
    queue_ms: int = Field(default=20, ge=1, le=60_000)
    max_inside: int = Field(default=32, ge=1)
    drain_seconds: float = Field(default=2.0, ge=0)
    worker_requests: int | None = Field(default=None, ge=1)
    max_k: int = Field(default=100, ge=1, le=1_000)
    max_body_bytes: int = Field(default=2 * 1024 * 1024, ge=1_024)
    history_events: int = Field(default=500, ge=1, le=4_000)
    history_days: int = Field(default=90, ge=1)
    trend_refresh_seconds: float = Field(default=5.0, gt=0)
    rules: Path | None = None
    experiments: Path | None = None
    reload_seconds: float = Field(default=1.0, gt=0)
    keys: Path | None = None
    open_access: bool = False
    address_limit: Rate | None = None
    cors_origins: Origins | None = None
    trusted_proxies: str | None = None
    storefront_key: str | None = Field(default=None, repr=False)
    privacy_key: str | None = Field(default=None, repr=False)
    privacy_api: bool = False
    retain_events_days: int = Field(default=730, ge=0)
    retain_exposures_days: int = Field(default=365, ge=0)
    retain_sessions_days: int = Field(default=90, ge=0)
    retain_replays_days: int = Field(default=90, ge=0)
    retain_verdicts_days: int = Field(default=30, ge=0)
    bundle_stale_days: float = Field(default=30.0, gt=0)
    smoke_requests: int = Field(default=50, ge=0, le=1_000)
    guardrail_answers: int = Field(default=200, ge=30)
    guardrail_errors: float = Field(default=0.01, ge=0)
    guardrail_empty: float = Field(default=0.01, ge=0)
    guardrail_latency_ms: float = Field(default=20.0, ge=0)
    guardrail_ctr: float = Field(default=0.05, ge=0)
    guardrail_ctr_seconds: float = Field(default=60.0, gt=0)
