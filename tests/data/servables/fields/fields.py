from __future__ import annotations

import numpy as np

from hpcserve import Tensor, method


class Fields:
    @method(inputs={"count": Tensor("int64", [])}, outputs={"y": Tensor("float64", [-1])})
    def make(self, count):
        return np.arange(int(count), dtype=np.float64)

    @method(inputs={"x": Tensor("float64", [-1])}, outputs={"total": Tensor("float64", [])})
    def total(self, x):
        return x.sum()

    @method(inputs={"x": Tensor("float32", [-1])}, outputs={"x": Tensor("float32", [-1])}, batchable=True)
    def echo(self, x):
        return x
