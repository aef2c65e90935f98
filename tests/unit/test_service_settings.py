"""Settings are documented, and the service stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from recsys.cli.options import settings
from recsys.errors import UserError
from service.metrics import Metrics
from service.settings import Settings

HEAVY = (
    "torch",
    "mlflow",
    "pandas",
    "polars",
    "duckdb",
    "scipy",
    "numba",
    "sklearn",
    "implicit",
    "optuna",
    "matplotlib",
)


def test_every_setting_is_documented_with_its_default() -> None:
    text = Path("docs/api.md").read_text()
    for name, field in Settings.model_fields.items():
        default = (
            "none"
            if field.default is None
            else f"`{field.default:g}`"
            if isinstance(field.default, float)
            else f"`{field.default}`"
        )
        # Once: what merges double says two things.
        assert text.count(f"| `RECSYS_{name.upper()}` | {default} |") == 1, name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECSYS_PORT", "99999"),
        ("RECSYS_WORKERS", "many"),
        ("RECSYS_CORS_ORIGINS", "shop.example"),
        ("REDIS_URL", "redis://:sec/ret@host:6379/0"),
        ("RECSYS_REDIS_URL", "http://:secret@host"),
    ],
)
def test_what_cannot_be_set_is_said_in_words_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=name.removeprefix("RECSYS_").lower() if "URL" not in name else name) as refused:
        settings()
    assert "sec" not in str(refused.value) and refused.value.__cause__ is None
    with pytest.raises(ValidationError) as raw:
        Settings()
    assert value not in str(raw.value) or "URL" not in name


def test_a_serving_process_imports_no_training_library() -> None:
    code = f"import sys, service.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_metric_is_documented_with_its_labels() -> None:
    text, registry = Path("docs/api.md").read_text(), CollectorRegistry()
    Metrics("shop", registry)
    for collector in registry._collector_to_names:
        (metric,) = collector.describe()
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames if label != "shop") or "–"
        assert text.count(f"| `{name}` | {metric.type} | {labels} |") == 1, name
