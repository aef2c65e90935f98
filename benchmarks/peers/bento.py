"""The model as BentoML serves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers.model import BUNDLE, Recommender


@bentoml.service(workers=1)
class Served:
    """Answers a question."""

    def __init__(self) -> None:
        self._recommender = Recommender(Path(os.environ[BUNDLE]))

    @bentoml.api  # type: ignore[untyped-decorator]
    async def recommend(self, question: dict[str, Any]) -> dict[str, Any]:
        """In the event loop: a thread for each call would cost more than the call."""
        return self._recommender.answer(question)
