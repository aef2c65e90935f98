"""Between PyTorch, where networks are trained, and the arrays that serve."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys.models.layers import Layer, Scaler


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


@torch.no_grad()
def to_layer(part: nn.Linear) -> Layer:
    """Its weights as arrays."""
    bias = np.zeros(part.out_features, dtype=np.float32) if part.bias is None else part.bias.cpu().numpy()
    return Layer(np.ascontiguousarray(part.weight.T.cpu().numpy()), bias)
