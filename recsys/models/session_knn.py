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


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Past sessions like the one that asks."""

    seeds: ItemArray
    """`(s,)` int32: the items that are looked for, the latest first."""
    sessions: NDArray[np.int32]
    """`(n,)` int32, the nearest first."""
    shared: ScoreArray
    """`(n, s)` float32: what each seed adds to each session's similarity, 0 where the session has it not."""


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
        near = self.neighbours(query)
        if len(near.seeds) == 0:
            return EMPTY_RANKING
        entries, place = self._entries(near)
        keep = eligible.take(entries).nonzero()[0]
        entries, place = entries.take(keep), place.take(keep)
        scores = near.shared.sum(axis=1).take(place) * self.idf.take(entries)
        items, totals = sum_by_item(entries, scores, len(self.idf))
        ranking = rank(self.name, items, totals, k)
        because = near.seeds[np.argmax(self._pulls(near, entries, place, ranking.items), axis=1)]
        return Ranking(ranking.items, ranking.scores, ranking.sources, because)

    def neighbours(self, query: Query) -> Neighbours:
        """The nearest past sessions; without seeds where the query has no items."""
        recent = query.session_items if len(query.session_items) else query.history.items
        recent = recent[-4 * self.max_items :][::-1]
        _, first = np.unique(recent, return_index=True)
        seeds = recent[np.sort(first)[: self.max_items]]
        # Linear decay by position, the latest item counting 1 (Ludewig and Jannach, 2018).
        decay = 1.0 - np.arange(len(seeds), dtype=np.float32) / np.float32(self.max_items)
        positions, lengths = gather_rows(self.item_indptr, seeds)
        n_sessions = len(self.session_indptr) - 1
        sessions, similarity = sum_by_item(self.item_sessions[positions], np.repeat(decay, lengths), n_sessions)
        # Among equally similar sessions the later one wins.
        nearest = sessions[top_k(-sessions, similarity, self.k)]
        has = np.zeros((len(nearest), len(seeds)), dtype=np.bool_)
        if len(nearest):
            order = np.argsort(nearest)
            ascending, entries = nearest[order], self.item_sessions[positions]
            found = np.minimum(ascending.searchsorted(entries), len(nearest) - 1)
            hits = ascending[found] == entries
            has[order[found[hits]], np.repeat(np.arange(len(seeds)), lengths)[hits]] = True
        return Neighbours(seeds, nearest, has * decay)

    def pulls(self, near: Neighbours, items: ItemArray) -> ScoreArray:
        """`(m, s)` float32: what each seed adds to the score of each of `items` `(m,)`, different ones, by the sessions that hold both."""
        return self._pulls(near, *self._entries(near), items)

    def _pulls(self, near: Neighbours, entries: ItemArray, place: NDArray[np.int64], items: ItemArray) -> ScoreArray:
        order = np.argsort(items)
        ascending = items[order]
        found = np.minimum(ascending.searchsorted(entries), max(len(items) - 1, 0))
        hits = np.flatnonzero(ascending[found] == entries) if len(items) else np.empty(0, dtype=np.intp)
        pulls = np.zeros((len(items), len(near.seeds)), dtype=np.float32)
        np.add.at(pulls, order[found[hits]], near.shared[place[hits]])
        return pulls * self.idf[items][:, None]

    def _entries(self, near: Neighbours) -> tuple[ItemArray, NDArray[np.int64]]:
        """All items of the neighbours, `(e,)` int32, and the place of each one's session among them."""
        positions, lengths = gather_rows(self.session_indptr, near.sessions)
        return self.session_items.take(positions), np.arange(len(near.sessions)).repeat(lengths)

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
