"""What every peer serves: a bundle's model, asked and answered in dictionaries. It needs numpy and orjson only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from recsys.bundle import Bundle, load_bundle
from recsys.compose import reads_history
from recsys.events import Surface
from recsys.ranking import EMPTY_HISTORY, NO_ITEM, Query

BUNDLE: Final = "PEERS_BUNDLE"
"""The variable that names the bundle's directory."""


class Recommender:
    """Answers from what a bundle knows: no recent events, no experiments, no log of exposures."""

    def __init__(self, bundle: Path) -> None:
        self._bundle: Bundle = load_bundle(bundle)
        self._item = lru_cache(maxsize=None)(self._read_item)

    def _read_item(self, row: int) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(b"{%b}" % self._bundle.catalogue.fragment(row))
        return found

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The items for a question: `user_id`, `surface`, `k`, and `item_id` or `cart` where it is about items."""
        bundle, surface = self._bundle, Surface(question["surface"])
        user, item = question["user_id"], question.get("item_id")
        context = NO_ITEM if item is None else bundle.catalogue.row(item)
        cart = np.array([bundle.catalogue.row(item_id) for item_id in question.get("cart", ())], dtype=np.int32)
        personal = reads_history(bundle.surfaces[surface])
        region, segments = bundle.histories.traits_of(user)
        query = Query(
            surface=surface,
            history=bundle.histories.of(user) if personal else EMPTY_HISTORY,
            cart_items=cart,
            context_item=context,
            category=NO_ITEM if context == NO_ITEM else int(bundle.catalogue.category[context]),
            region=region,
            segments=segments,
        )
        eligible = bundle.catalogue.available.copy()
        eligible[cart] = False
        if context != NO_ITEM:
            eligible[context] = False
        ranking = bundle.surfaces[surface].recommend(query, int(question["k"]), eligible)
        places = zip(ranking.items.tolist(), ranking.scores.tolist(), ranking.sources, strict=True)
        items = [{"score": score, "source": str(source), **self._item(row)} for row, score, source in places]
        return {"model_version": bundle.version, "surface": str(surface), "items": items}
