"""Settings are documented, and the service stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
        assert f"| `RECSYS_{name.upper()}` | {default} |" in text, name


def test_a_serving_process_imports_no_training_library() -> None:
    code = f"import sys, service.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
