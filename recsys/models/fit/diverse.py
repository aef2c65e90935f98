"""What the catalogue says of how alike items are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from recsys.dataset import Catalogue, Dataset
from recsys.models.diverse import Diverse
from recsys.models.fit.popularity import order_by
from recsys.ranking import NO_ITEM, ItemArray

SEPARATOR = " > "


@dataclass(frozen=True)
class DiverseRecommender:
    """Categories and brands as codes; the fitted model still lacks what it re-ranks, and changes nothing."""

    depth: int = 40
    """Twice the longest list that is usual; deeper, phase 2 would have to be asked for what the ranker is not sure of."""

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> Diverse:  # noqa: ARG002
        """See `Recommender`."""
        catalogue = dataset.catalogue
        return Diverse(
            model=order_by(np.zeros(0), "nothing"),
            category=_apart(catalogue.category),
            parent=_apart(parents(catalogue)),
            brand=_apart(_codes(catalogue.brands)),
            strength=0.0,
            depth=self.depth,
        )


def parents(catalogue: Catalogue) -> ItemArray:
    """`(n_items,)` int32: a code for the level above each item's category, or for a category of the first level itself."""
    above = [name.rpartition(SEPARATOR)[0] or name for name in catalogue.categories]
    return np.append(_codes(above), np.int32(NO_ITEM))[catalogue.category]  # code -1 is the last


def _codes(names: Iterable[str | None]) -> ItemArray:
    """A code for each name, -1 for none."""
    known: dict[str, int] = {}
    codes = [NO_ITEM if name is None else known.setdefault(name, len(known)) for name in names]
    return np.array(codes, dtype=np.int32)


def _apart(codes: ItemArray) -> ItemArray:
    """`codes` `(n,)` with a negative one of its own for each item whose code is -1."""
    return np.where(codes < 0, -1 - np.arange(len(codes), dtype=np.int32), codes)
