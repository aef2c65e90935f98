"""The process that answers for a shadow: `python -m service.shadow_process VERSION`, a JSON line in, a JSON line out.

It keeps a line of every comparison in `data/shadow/<version>.jsonl`, which `recsys shadow` sums up: no ids of shoppers or items, only
of the answer.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from prometheus_client import CollectorRegistry

from recsys.bundle import load_bundle, require_name
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.privacy.tombstones import Tombstones
from recsys.tables import CATALOGUE_LOG
from service.answering import Answering, rows_of
from service.answers import Recorded, Ruling
from service.bundles import BundleHolder, LiveBundle
from service.catalogue import LiveCatalogue
from service.catalogue_log import CatalogueLog
from service.metrics import Metrics
from service.rules import RulesHolder
from service.schemas import RecommendRequest
from service.session_store import RECORD
from service.settings import Settings
from service.veil import veiled

LOWEST_PRIORITY: Final = 19
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of the file of comparisons: from then on only the metrics go on."""

logger = logging.getLogger(__name__)


def rank_correlation(ours: Sequence[str], theirs: Sequence[str]) -> float | None:
    """Spearman's, of the items that both lists hold; None where fewer than two are."""
    place = {item: at for at, item in enumerate(theirs)}
    both = [item for item in ours if item in place]
    n = len(both)
    if n < 2:
        return None
    other = np.argsort(np.argsort([place[item] for item in both]))
    return float(1 - 6 * np.square(np.arange(n) - other).sum() / (n * (n * n - 1)))


def overlap(shown: Sequence[str], ours: Sequence[str]) -> float | None:
    """Share of the items shown that are in the other list; None where none was shown."""
    return len(set(shown) & set(ours)) / len(shown) if shown else None


class Responder:
    """Answers what it is asked with one bundle, under the rules of the shop."""

    def __init__(self, live: LiveBundle, rules: RulesHolder, clock: Callable[[], float] = time.perf_counter) -> None:
        self._live = live
        self._rules = rules
        self._clock = clock

    def compare(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The bundle's answer beside the one that was shown."""
        request = RecommendRequest.model_validate(asked["request"])
        shown: list[str] = asked["items"]
        told = {
            "at": asked["at"],
            "surface": str(request.where),
            "live": asked["live"],
            "live_seconds": asked["seconds"],
        }
        started = self._clock()
        try:
            ours = self._answer(request, asked)
        except Exception:
            logger.exception("the shadow fails on a request of surface %s", request.where)
            return {**told, "outcome": "failed", "shown": len(shown)}
        return {
            **told,
            "outcome": "compared" if ours or not shown else "empty",
            "seconds": self._clock() - started,
            "shown": len(shown),
            "answered": len(ours),
            "overlap": overlap(shown, ours),
            "correlation": rank_correlation(shown, ours),
        }

    def _answer(self, request: RecommendRequest, asked: dict[str, Any]) -> list[str]:
        live, now = BundleHolder.followed(self._live), float(asked["at"])
        recorded = Recorded(*(np.frombuffer(base64.b64decode(part), dtype=RECORD) for part in asked["recorded"]))
        shopper = Answering.shopper(live, request, recorded, now)
        assert shopper is not None  # what was recorded could be read
        engine = self._rules.on(live)
        ruling = None if engine is None else Ruling(engine, now, shopper.history)
        ranking = Answering.rank(
            live, request, shopper, asked["trend"], ruling, shown=rows_of(live, asked["shown"]), seed=int(asked["seed"])
        ).ranking
        return [live.catalogue.item_id(row) for row in ranking.items.tolist()]


def record(path: Path, told: dict[str, Any]) -> None:
    """Add a line to the file of comparisons, while it is not full. Lines are short, so several processes may write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if file.tell() < MAX_BYTES:
            file.write(orjson.dumps(told) + b"\n")


def main() -> None:
    """Answer until there is nothing more to read: then the worker that asks has ended."""
    os.nice(LOWEST_PRIORITY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is the worker's to end this process
    settings, version = Settings(), require_name(sys.argv[1])
    tombstones = Tombstones(settings.data_dir, Pseudonyms(settings.data_dir, settings.privacy_key))
    bundle = veiled(load_bundle(settings.data_dir / "bundles" / version), tombstones)
    live = LiveBundle(bundle, LiveCatalogue(bundle, CatalogueLog(settings.data_dir / CATALOGUE_LOG)))
    rules = RulesHolder(settings.rules, Metrics(settings.shop, CollectorRegistry()))
    responder = Responder(live, rules)
    looked = time.monotonic()
    for line in sys.stdin.buffer:
        tombstones.follow()
        if time.monotonic() - looked > settings.reload_seconds:
            asyncio.run(rules.reload())
            looked = time.monotonic()
        told = responder.compare(orjson.loads(line))
        sys.stdout.buffer.write(orjson.dumps(told) + b"\n")
        sys.stdout.buffer.flush()
        record(settings.data_dir / "shadow" / f"{version}.jsonl", told)


if __name__ == "__main__":
    main()
