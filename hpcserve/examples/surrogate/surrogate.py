"""A multi-layer perceptron in numpy that says where a damped oscillator is after a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcserve import SampleError, Tensor, method
from hpcserve.servable import Context

Array = np.ndarray[Any, Any]


class Surrogate:
    """The network, and the range that it has learned."""

    def setup(self, context: Context) -> None:
        """Loads it."""
        with np.load(context.directory / "network.npz") as network:
            self._low, self._high = network["low"], network["high"]
            layers = [(network[f"weights{each}"], network[f"bias{each}"]) for each in range(3)]
        *self._hidden, self._output = layers

    @method(
        inputs={"oscillator": Tensor("float64", [-1, 5])},
        outputs={"end": Tensor("float64", [-1, 2])},
        batchable=True,
    )
    def advance(self, oscillator: Array) -> Array:
        """From ``oscillator: float64[n, 5]``, x, v, ω, ζ and t, to ``float64[n, 2]``, x and v at t.

        Raises:
            SampleError: One is outside the range that was learned: the network would only guess.
        """
        known = ((oscillator >= self._low) & (oscillator <= self._high)).all(axis=1)
        if not known.all():
            index = int(np.argmin(known))
            raise SampleError(
                index,
                f"oscillator {oscillator[index].tolist()} is outside of what was learned: x, v, ω, ζ, t from "
                f"{self._low.tolist()} to {self._high.tolist()}",
            )
        weights, bias = self._output
        found: Array = hidden(self._hidden, scaled(oscillator, self._low, self._high)) @ weights + bias
        return found.astype(np.float64)


def scaled(values: Array, low: Array, high: Array) -> Array:
    """The values as float32, from -1 to 1 within the range."""
    found: Array = (2 * values - low - high) / (high - low)
    return found.astype(np.float32)


def hidden(layers: list[tuple[Array, Array]], values: Array) -> Array:
    """What the last hidden layer says."""
    for weights, bias in layers:
        values = np.tanh(values @ weights + bias)
    return values
