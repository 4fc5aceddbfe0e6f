"""Promises two numbers and returns something else."""

import numpy as np

from hpcserve import Tensor, method

IN = {"n": Tensor("int64")}
OUT = {"y": Tensor("float32", [2])}


class Liar:
    @method(inputs=IN, outputs=OUT)
    def shape(self, n):
        return np.zeros(3, np.float32)

    @method(inputs=IN, outputs=OUT)
    def dtype(self, n):
        return np.zeros(2, np.complex128)

    @method(inputs=IN, outputs=OUT)
    def name(self, n):
        return {"z": np.zeros(2, np.float32)}

    @method(inputs=IN, outputs=OUT)
    def count(self, n):
        return {"y": np.zeros(2, np.float32), "z": np.zeros(2, np.float32)}

    @method(inputs=IN, outputs=OUT)
    def nothing(self, n):
        return None

    @method(inputs=IN, outputs=OUT)
    def raises(self, n):
        raise LookupError(f"no row {int(n)}")

    @method(inputs=IN, outputs=OUT)
    def honest(self, n):
        return np.full(2, n, np.float32)
