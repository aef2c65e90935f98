"""Between PyTorch, where networks are trained, and the arrays that serve."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys.models.layers import Layer, PiecewiseLinear, Scaler


def device() -> torch.device:
    """CUDA where present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit_scaler(inputs: NDArray[np.float32]) -> Scaler:
    """Over `inputs` `(n, inputs)`; NaN is left out, a column of nothing else becomes 0."""
    known = ~np.isnan(inputs)
    counts = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, inputs, 0.0).sum(axis=0) / counts
    variance = np.where(known, (inputs - mean) ** 2, 0.0).sum(axis=0) / counts
    return Scaler(mean.astype(np.float32), (np.sqrt(variance) + 1e-3).astype(np.float32))


def fit_bins(features: NDArray[np.float32], columns: Sequence[int], n_bins: int) -> PiecewiseLinear:
    """Bins of `columns` of `features` `(n, inputs)` between quantiles; a column of one value has none."""
    found: list[tuple[int, float, float]] = []
    for column in columns:
        values = features[~np.isnan(features[:, column]), column]
        edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, n_bins + 1))) if len(values) else values
        found += [(column, start, stop - start) for start, stop in pairwise(edges.tolist())]
    table = np.array(found, dtype=np.float32).reshape(-1, 3)
    return PiecewiseLinear(table[:, 0].astype(np.int32), table[:, 1].copy(), table[:, 2].copy())


@torch.no_grad()
def to_layer(part: nn.Linear) -> Layer:
    """Its weights as arrays."""
    bias = np.zeros(part.out_features, dtype=np.float32) if part.bias is None else part.bias.cpu().numpy()
    return Layer(np.ascontiguousarray(part.weight.T.cpu().numpy()), bias)
