"""Fits the multi-layer perceptron of the servable ``surrogate`` to the solver, in about a second.

Two hidden layers of 1,024 tanh units. Their weights are drawn at random and stay so; the output layer is the
least-squares solution for what the solver says of 16,384 oscillators, with a little damping (ridge). Within seconds
this is several times as exact as gradient descent through all layers, and it gives the same network each time.

Source: W. F. Schmidt, M. A. Kraaijveld, R. P. W. Duin, "Feedforward neural networks with random weights", 1992;
G.-B. Huang, Q.-Y. Zhu, C.-K. Siew, "Extreme learning machine: theory and applications", 2006.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hpcserve.examples.surrogate.oscillator import HIGH, LOW, drawn, solve
from hpcserve.examples.surrogate.surrogate import hidden, scaled

Array = np.ndarray[Any, Any]

HIDDEN_UNITS = 1024
SAMPLES = 16_384
CHUNK = 2_048
GAIN = 0.7
"""Of the random weights: larger, and the layers are rougher than the solution; smaller, and they are nearly linear."""
RIDGE = 1e-10
SEED = 7


def fit(directory: Path) -> Path:
    """Writes the complete servable into ``directory``, which is made if it is not there.

    Returns:
        ``directory``.
    """
    layers = _random_layers(np.random.default_rng(SEED))
    output = _least_squares(layers, drawn(SAMPLES, seed=SEED))
    directory.mkdir(parents=True, exist_ok=True)
    network: dict[str, Any] = {
        f"{part}{number}": values
        for number, layer in enumerate((*layers, output))
        for part, values in zip(("weights", "bias"), layer, strict=True)
    } | {"low": LOW, "high": HIGH}
    np.savez(directory / "network.npz", **network)
    for name in ("servable.toml", "surrogate.py"):
        shutil.copyfile(Path(__file__).with_name(name), directory / name)
    return directory


def _random_layers(dice: np.random.Generator) -> list[tuple[Array, Array]]:
    layers = []
    for inputs in (len(LOW), HIDDEN_UNITS):
        weights = dice.standard_normal((inputs, HIDDEN_UNITS)) * GAIN / np.sqrt(inputs)
        bias = dice.uniform(-GAIN, GAIN, HIDDEN_UNITS)
        layers.append((weights.astype(np.float32), bias.astype(np.float32)))
    return layers


def _least_squares(layers: list[tuple[Array, Array]], oscillators: Array) -> tuple[Array, Array]:
    """The output layer, by the normal equations; summed up in chunks, so that it takes little memory."""
    gram: Array = np.eye(HIDDEN_UNITS + 1) * RIDGE * len(oscillators)
    right: Array = np.zeros((HIDDEN_UNITS + 1, 2))
    for chunk in np.split(oscillators, range(CHUNK, len(oscillators), CHUNK)):
        units = hidden(layers, scaled(chunk, LOW, HIGH))
        units = np.column_stack([units, np.ones(len(units))])  # the last one carries the bias; float64
        gram += units.T @ units
        right += units.T @ solve(chunk)
    found = np.linalg.solve(gram, right).astype(np.float32)
    return found[:-1], found[-1]


if __name__ == "__main__":
    fit(Path(sys.argv[1]))
