"""The model as MLflow serves it: a pyfunc, from code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel

from benchmarks.peers.model import BUNDLE, Recommender


class Served(PythonModel):
    """Answers a list of questions."""

    def load_context(self, context: Any) -> None:  # noqa: ARG002
        """See `PythonModel`."""
        self._recommender = Recommender(Path(os.environ[BUNDLE]))

    def predict(self, model_input: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See `PythonModel`."""
        return [self._recommender.answer(question) for question in model_input]


mlflow.models.set_model(Served())
