"""Session neighbours: what past sessions like this one went on to (VMIS-kNN, Kersbergen et al., SIGMOD 2022).

An inverted index holds, for each item, its most recent sessions; a query scores those that share its latest items,
keeps the nearest, and adds up what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.models.selection import gather_rows, rank, sum_by_item
from recsys.ranking import EMPTY_RANKING, ItemArray, Mask, ModelState, Query, Ranking, ScoreArray, top_k


@dataclass(frozen=True)
class SessionKNNModel:
    """Nearest past sessions, by the shared items' recency in the query's session and rarity."""

    kind: ClassVar[str] = "session_knn"
    item_indptr: NDArray[np.int64]
    item_sessions: NDArray[np.int32]
    """Sessions of each item, the most recent first, at most `sample` of them; later sessions have higher numbers."""
    session_indptr: NDArray[np.int64]
    session_items: ItemArray
    idf: ScoreArray
    """`(n_items,)` float32: log of sessions over sessions with the item."""
    k: int = 100
    """Neighbours."""
    max_items: int = 10
    """Latest different items of the query that are looked at."""
    name: str = "session_knn"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; answers from the session's items, else from the latest of the history."""
        recent = query.session_items if len(query.session_items) else query.history.items
        recent = recent[-4 * self.max_items :][::-1]
        _, first = np.unique(recent, return_index=True)
        seeds = recent[np.sort(first)[: self.max_items]]
        if len(seeds) == 0:
            return EMPTY_RANKING
        # Linear decay by position, the latest item counting 1 (Ludewig and Jannach, 2018).
        decay = 1.0 - np.arange(len(seeds), dtype=np.float32) / np.float32(self.max_items)
        positions, lengths = gather_rows(self.item_indptr, seeds)
        n_sessions = len(self.session_indptr) - 1
        sessions, similarity = sum_by_item(self.item_sessions[positions], np.repeat(decay, lengths), n_sessions)
        # Among equally similar sessions the later one wins.
        nearest = top_k(-sessions, similarity, self.k)
        positions, lengths = gather_rows(self.session_indptr, sessions[nearest])
        entries = self.session_items[positions]
        keep = eligible[entries]
        entries = entries[keep]
        scores = np.repeat(similarity[nearest], lengths)[keep] * self.idf[entries]
        items, totals = sum_by_item(entries, scores, len(self.idf))
        latest = np.full(len(items), seeds[0], dtype=np.int32)
        return rank(self.name, items, totals, k, because=latest)

    def state(self) -> ModelState:
        """See `Model`."""
        arrays: dict[str, NDArray[Any]] = {
            "item_indptr": self.item_indptr,
            "item_sessions": self.item_sessions,
            "session_indptr": self.session_indptr,
            "session_items": self.session_items,
            "idf": self.idf,
        }
        return ModelState({"k": self.k, "max_items": self.max_items, "name": self.name}, arrays)

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.fields())
