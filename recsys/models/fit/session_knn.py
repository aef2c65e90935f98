"""Fitting of session neighbours: an inverted index over the most recent sessions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.dataset import Dataset
from recsys.models.fit.matrix import incidence_matrix
from recsys.models.session_knn import SessionKNNModel


@dataclass(frozen=True)
class SessionKNNRecommender:
    """VMIS-kNN (Kersbergen et al., SIGMOD 2022)."""

    k: int = 100
    sample: int = 500
    """Most recent sessions kept for each item."""
    max_items: int = 10

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> SessionKNNModel:  # noqa: ARG002
        """See `Recommender`."""
        events = dataset.events
        # Number sessions by their last event, so that a higher number is a later session.
        last = np.full(dataset.n_sessions, np.iinfo(np.int64).min)
        np.maximum.at(last, events.session, events.second)
        present = np.unique(events.session)
        number = np.zeros(dataset.n_sessions, dtype=np.int32)
        number[present[np.argsort(last[present], kind="stable")]] = np.arange(len(present), dtype=np.int32)
        by_session = incidence_matrix(number[events.session], events.item, (len(present), dataset.n_items))
        by_item = by_session.T.tocsr()
        by_item.sort_indices()
        counts = np.diff(by_item.indptr)
        # Sessions ascend within an item: its most recent are the last ones.
        place_from_end = np.repeat(by_item.indptr[1:], counts) - np.arange(by_item.nnz) - 1
        keep = place_from_end < self.sample
        return SessionKNNModel(
            item_indptr=np.concatenate([[0], np.cumsum(np.minimum(counts, self.sample))]).astype(np.int64),
            item_sessions=by_item.indices[keep].astype(np.int32),
            session_indptr=by_session.indptr.astype(np.int64),
            session_items=by_session.indices.astype(np.int32),
            idf=np.log(max(1, len(present)) / np.maximum(counts, 1)).astype(np.float32) + np.float32(1e-3),
            k=self.k,
            max_items=self.max_items,
        )
