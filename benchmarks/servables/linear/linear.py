"""A model whose batch of n samples takes ``fixed_ms + n * sample_ms``, as a GPU's would: without the processor."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hpcserve import Batching, Tensor, method

X = {"x": Tensor("float32", [-1, 16])}
Y = {"y": Tensor("float32", [-1])}


class Linear:
    """The sum of each row."""

    @method(inputs=X, outputs=Y, batchable=True, batching=Batching(max_batch_size=1024))
    def predict(self, x: np.ndarray[Any, Any], *, parameters: dict[str, float]) -> np.ndarray[Any, Any]:
        """Sleeps for as long as the parameters say."""
        time.sleep((parameters["fixed_ms"] + len(x) * parameters["sample_ms"]) / 1000)
        total: np.ndarray[Any, Any] = x.sum(axis=1, dtype=np.float32)
        return total
