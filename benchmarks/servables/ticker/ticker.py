"""A method that yields small items as fast as it can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcserve import Tensor, method


class Ticker:
    """Items of 64 bytes."""

    @method(inputs={"n": Tensor("int64")}, outputs={"x": Tensor("float64", [8])})
    def ticks(self, n: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        """So many of them, each with its number."""
        for number in range(int(n)):
            yield np.full(8, float(number))
