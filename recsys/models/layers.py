"""Small networks as arrays: what is trained in PyTorch answers in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

MAX_SCALED: Final = 4.0


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
        scaled = (x - self.mean) / self.scale
        np.nan_to_num(scaled, copy=False)
        return np.clip(scaled, -MAX_SCALED, MAX_SCALED, out=scaled)


@dataclass(frozen=True, slots=True)
class Network:
    """Layers with ReLU between them over scaled inputs; one output."""

    scaler: Scaler
    layers: tuple[Layer, ...]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(n, inputs)` float32 in, `(n,)` float32 logits out."""
        hidden = self.scaler(x)
        for layer in self.layers[:-1]:
            hidden = layer(hidden)
            np.maximum(hidden, 0.0, out=hidden)
        return self.layers[-1](hidden)[:, 0]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a bundle."""
        found = {"scaler_mean": self.scaler.mean, "scaler_scale": self.scaler.scale}
        for number, layer in enumerate(self.layers):
            found |= {f"layer{number}_weights": layer.weights, f"layer{number}_bias": layer.bias}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_layers: int) -> Self:
        """What `arrays` gave."""
        scaler = Scaler(arrays["scaler_mean"], arrays["scaler_scale"])
        numbers = range(n_layers)
        return cls(scaler, tuple(Layer(arrays[f"layer{n}_weights"], arrays[f"layer{n}_bias"]) for n in numbers))
