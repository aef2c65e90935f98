"""The local ridge's kernel: for each item one small linear system, compiled and run on several threads."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits


def solve_items(
    seen: sparse.csc_matrix,
    row_weight: NDArray[np.float64],
    nearest: sparse.csr_matrix,
    *,
    penalty: NDArray[np.float64],
    wanted: NDArray[np.bool_],
) -> sparse.csr_matrix:
    """Weights `(n_items, n_items)`: row i predicts item i, if `wanted` `(n_items,)`, from its neighbours.

    `seen` `(n_rows, n_items)` of ones, a row being a shopper or whatever has items in common; `row_weight` `(n_rows,)`;
    `nearest` holds each item's neighbours in its row; `penalty` `(n_items,)` that of a neighbour's weight.
    """
    # Parallel over items, so the solver inside must not start threads of its own.
    with threadpool_limits(1):
        data = _solve(
            seen.indptr.astype(np.int64),
            seen.indices.astype(np.int32),
            row_weight.astype(np.float64),
            nearest.indptr.astype(np.int64),
            nearest.indices.astype(np.int32),
            penalty.astype(np.float64),
            wanted,
            len(row_weight),
        )
    weights = sparse.csr_matrix((data, nearest.indices, nearest.indptr), shape=nearest.shape)
    weights.eliminate_zeros()
    return weights


@numba.njit(parallel=True, cache=True)
def _solve(indptr, shoppers, weight, near_indptr, near, penalty, wanted, n_shoppers):  # type: ignore[no-untyped-def]
    n_items = len(near_indptr) - 1
    data = np.zeros(len(near), dtype=np.float32)
    chunk = 64
    for block in numba.prange((n_items + chunk - 1) // chunk):
        head = np.full(n_shoppers, -1, dtype=np.int32)
        of_item = np.zeros(n_shoppers, dtype=np.bool_)
        for item in range(block * chunk, min((block + 1) * chunk, n_items)):
            start, stop = near_indptr[item], near_indptr[item + 1]
            if wanted[item] and stop > start:
                gram, target = _gram(indptr, shoppers, weight, near[start:stop], item, head, of_item)
                for a in range(stop - start):
                    gram[a, a] += penalty[near[start + a]]
                data[start:stop] = np.linalg.solve(gram, target).astype(np.float32)
    return data


@numba.njit(cache=True)
def _gram(indptr, shoppers, weight, near, item, head, of_item):  # type: ignore[no-untyped-def]
    """The weighted Gram matrix of the neighbours and their products with the item.

    For every shopper a linked list of the neighbours they have; a new one meets all earlier ones. `head` and `of_item` are
    scratch arrays over shoppers, left as they were found.
    """
    m = len(near)
    gram = np.zeros((m, m))
    target = np.zeros(m)
    for p in range(indptr[item], indptr[item + 1]):
        of_item[shoppers[p]] = True
    total = 0
    for a in range(m):
        total += indptr[near[a] + 1] - indptr[near[a]]
    previous = np.empty(total, dtype=np.int32)
    place = np.empty(total, dtype=np.int32)
    entry = 0
    for a in range(m):
        for p in range(indptr[near[a]], indptr[near[a] + 1]):
            shopper = shoppers[p]
            w = weight[shopper]
            if of_item[shopper]:
                target[a] += w
            gram[a, a] += w
            other = head[shopper]
            while other >= 0:
                gram[a, place[other]] += w
                other = previous[other]
            previous[entry] = head[shopper]
            place[entry] = a
            head[shopper] = entry
            entry += 1
    for a in range(m):
        for b in range(a):
            gram[b, a] = gram[a, b]
        for p in range(indptr[near[a]], indptr[near[a] + 1]):
            head[shoppers[p]] = -1
    for p in range(indptr[item], indptr[item + 1]):
        of_item[shoppers[p]] = False
    return gram, target
