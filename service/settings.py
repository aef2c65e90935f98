"""Settings of the serving process: environment variables `RECSYS_...`, documented in docs/api.md."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator may change. Every field is documented in docs/api.md; a test compares the two."""

    model_config = SettingsConfigDict(env_prefix="RECSYS_", frozen=True, populate_by_name=True, extra="ignore")

    data_dir: Path = Path("data")
    shop: str = Field(default="default", pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    workers: int = Field(default=1, ge=1, le=256)
    redis_url: str | None = Field(default=None, validation_alias=AliasChoices("RECSYS_REDIS_URL", "REDIS_URL"))
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
