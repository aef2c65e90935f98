"""Small networks as arrays: what is trained in PyTorch answers in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

MAX_SCALED: Final = 4.0
MAX_LOGIT: Final = 30.0
"""Logits are told apart up to here, so that their odds are numbers."""


@dataclass(frozen=True, slots=True)
class Layer:
    """`x @ weights + bias`."""

    weights: NDArray[np.float32]
    """`(inputs, outputs)` float32."""
    bias: NDArray[np.float32]
    """`(outputs,)` float32."""

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(n, inputs)` in, `(n, outputs)` out."""
        return x @ self.weights + self.bias


@dataclass(frozen=True, slots=True)
class Scaler:
    """Inputs on one scale."""

    mean: NDArray[np.float32]
    """`(inputs,)` float32."""
    scale: NDArray[np.float32]
    """`(inputs,)` float32: standard deviations."""

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(n, inputs)` in and out; what is missing, NaN, is average, and nothing lies further off than `MAX_SCALED`."""
        scaled = x - self.mean
        scaled /= self.scale
        np.copyto(scaled, np.float32(0.0), where=np.isnan(scaled))
        return np.clip(scaled, -MAX_SCALED, MAX_SCALED, out=scaled)


@dataclass(frozen=True, slots=True)
class PiecewiseLinear:
    """Some columns as how far they reach through each of their bins (Gorishniy et al., NeurIPS 2022).

    A network takes steps and bends of a single number from it, which are what trees are good at.
    """

    columns: NDArray[np.int32]
    """`(b,)` int32: the column of each bin."""
    starts: NDArray[np.float32]
    """`(b,)` float32: where each bin starts; a NaN lies before all of them."""
    widths: NDArray[np.float32]
    """`(b,)` float32, above 0."""

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(n, inputs)` in, `(n, b)` from -1, not reached, to 1, passed, out."""
        reached = x[:, self.columns]
        reached -= self.starts
        reached /= self.widths
        # Of a NaN and a number, fmax takes the number.
        np.fmax(reached, 0.0, out=reached)
        np.minimum(reached, 1.0, out=reached)
        reached *= np.float32(2.0)
        reached -= np.float32(1.0)
        return reached


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a network reads of raw features: logarithms on one scale, then the bins of some."""

    scaler: Scaler
    bins: PiecewiseLinear

    @property
    def average(self) -> NDArray[np.float32]:
        """`(features,)` float32: raw features that are all as usual in training."""
        return np.copysign(np.expm1(np.abs(self.scaler.mean)), self.scaler.mean)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(n, features)` float32 in, `(n, features + b)` out."""
        return np.concatenate([self.scaler(symlog(x)), self.bins(x)], axis=1)


@dataclass(frozen=True, slots=True)
class Network:
    """Layers with ReLU between them; one output."""

    inputs: Inputs
    layers: tuple[Layer, ...]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(n, features)` float32 in, `(n,)` float32 logits out."""
        hidden = self.inputs(x)
        for layer in self.layers[:-1]:
            hidden = layer(hidden)
            np.maximum(hidden, 0.0, out=hidden)
        return self.layers[-1](hidden)[:, 0]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a bundle."""
        scaler, bins = self.inputs.scaler, self.inputs.bins
        found: dict[str, NDArray[Any]] = {"scaler_mean": scaler.mean, "scaler_scale": scaler.scale}
        found |= {"bin_columns": bins.columns, "bin_starts": bins.starts, "bin_widths": bins.widths}
        for number, layer in enumerate(self.layers):
            found |= {f"layer{number}_weights": layer.weights, f"layer{number}_bias": layer.bias}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_layers: int) -> Self:
        """What `arrays` gave."""
        bins = PiecewiseLinear(arrays["bin_columns"], arrays["bin_starts"], arrays["bin_widths"])
        inputs = Inputs(Scaler(arrays["scaler_mean"], arrays["scaler_scale"]), bins)
        numbers = range(n_layers)
        return cls(inputs, tuple(Layer(arrays[f"layer{n}_weights"], arrays[f"layer{n}_bias"]) for n in numbers))


def symlog(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms of sizes, signs kept: counts and ages differ by factors."""
    # log1p would be exact below 1e-7, and takes four times as long: numpy has no vector instructions for it.
    sizes = np.abs(features)
    sizes += np.float32(1.0)
    return np.copysign(np.log(sizes, out=sizes), features)


def odds(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of what has these logits, same shape: never 0, never infinite."""
    return np.asarray(np.exp(np.clip(logits, -MAX_LOGIT, MAX_LOGIT)), dtype=np.float32)
