"""A random walk, step by step: a method that yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hpcserve import Tensor, method
from hpcserve.errors import InvalidInput

Point = np.ndarray[Any, np.dtype[np.float64]]


@method(inputs={"start": Tensor("float64", [-1])}, outputs={"at": Tensor("float64", [-1])})
def steps(start: Point, *, parameters: Mapping[str, Any]) -> Iterator[Point]:
    """Where a walker is, from ``start: float64[d]`` on, without end.

    Args:
        start: Where it begins; this is the first item.
        parameters: ``seed`` of its steps (0): the same again gives the same walk. ``scale`` (1.0): the standard
            deviation of a step along each axis.
    """
    unknown = sorted(parameters.keys() - {"seed", "scale"})
    if unknown:
        raise InvalidInput(f"unknown parameters {', '.join(unknown)}: there are seed and scale")
    dice = np.random.default_rng(int(parameters.get("seed", 0)))
    scale = float(parameters.get("scale", 1.0))
    at = start
    while True:
        yield at
        at = at + dice.normal(scale=scale, size=start.shape)
