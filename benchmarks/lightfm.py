"""LightFM (Kula, CBRecSys 2015) as a baseline: a factorisation whose items are sums of the vectors of their features.

`python -P benchmarks/lightfm.py IN.npz OUT.npz`, run as a subprocess by the interpreter of `.venv-bench`, which has `lightfm-next` and
nothing of the project: files in and out, no pickle. `-P` keeps this folder off the path, where this file would be imported in the
library's place.

IN holds `user`, `item` `(n,)` int32, different pairs; the features of all items as CSR: `indptr` `(n_items + 1,)`, `indices`, `data`
float32; `n_users`, `n_features`; `case_user` `(n_cases,)` int32 and `candidate` `(m,)` int32, what is to be scored for whom; and the
settings `components`, `epochs`, `learning_rate`, `item_alpha`, `identity`, `threads`, `seed`. OUT holds `scores` `(n_cases, m)` float32.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

LOSS: Final = "warp"
CASES_AT_ONCE: Final = 256


def item_matrix(known: NDArray[np.bool_], features: sparse.csr_matrix, identity: float) -> sparse.csr_matrix:
    """`(n_items, n_items + n_features)` float32: the item itself, weight `identity`, where it is `known`, and its features.

    An item that nobody has met has no vector of its own: it would be noise, and rank it at random.
    """
    own = sparse.diags_array((known * identity).astype(np.float32)).tocsr()
    own.eliminate_zeros()
    return sparse.csr_matrix(sparse.hstack([own, features]), dtype=np.float32)


def user_matrix(met: NDArray[np.bool_]) -> sparse.csr_matrix:
    """`(n_users, n_users)` float32: the user itself where they have met anything; others get what the items' biases say."""
    own = sparse.diags_array(met.astype(np.float32)).tocsr()
    own.eliminate_zeros()
    return sparse.csr_matrix(own, dtype=np.float32)


def main(source: Path, target: Path) -> None:
    """Fit and score, as the module says."""
    from lightfm import LightFM

    with np.load(source, allow_pickle=False) as given:
        data = {name: given[name] for name in given.files}
    n_users, n_items = int(data["n_users"]), len(data["indptr"]) - 1
    shape = (n_items, int(data["n_features"]))
    features = sparse.csr_matrix((data["data"], data["indices"], data["indptr"]), shape=shape)
    users, items = data["user"], data["item"]
    met = sparse.coo_matrix((np.ones(len(users), np.float32), (users, items)), shape=(n_users, n_items))
    known = np.bincount(items, minlength=n_items) > 0
    of_items = item_matrix(known, features, float(data["identity"]))
    of_users = user_matrix(np.bincount(users, minlength=n_users) > 0)
    model = LightFM(
        no_components=int(data["components"]),
        loss=LOSS,
        learning_rate=float(data["learning_rate"]),
        item_alpha=float(data["item_alpha"]),
        random_state=int(data["seed"]),
    )
    epochs, started = int(data["epochs"]), time.perf_counter()
    for epoch in range(epochs):
        model.fit_partial(met, user_features=of_users, item_features=of_items, num_threads=int(data["threads"]))
        print(f"LightFM: epoch {epoch + 1} of {epochs}, {time.perf_counter() - started:.0f} s", flush=True)
    item_biases, item_vectors = model.get_item_representations(of_items[data["candidate"]])
    # The user's bias is the same for all items.
    _, user_vectors = model.get_user_representations(of_users)
    cases = data["case_user"]
    scores = np.empty((len(cases), len(item_biases)), dtype=np.float32)
    for start in range(0, len(cases), CASES_AT_ONCE):
        rows = slice(start, start + CASES_AT_ONCE)
        scores[rows] = user_vectors[cases[rows]] @ item_vectors.T + item_biases
    np.savez(target, scores=scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
