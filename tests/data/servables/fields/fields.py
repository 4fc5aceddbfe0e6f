from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from hpcserve import Tensor, method


class Fields:
    @method(inputs={"count": Tensor("int64", [])}, outputs={"y": Tensor("float64", [-1])})
    def make(self, count):
        return np.arange(int(count), dtype=np.float64)

    @method(inputs={"rows": Tensor("int64", [])}, outputs={"y": Tensor("float32", [-1, 1 << 20])})
    def vast(self, rows):
        """Rows of 4 MiB, all of them the same one."""
        return np.broadcast_to(np.zeros(1 << 20, np.float32), (int(rows), 1 << 20))

    @method(inputs={}, outputs={"peak_kib": Tensor("int64", [])})
    def memory(self):
        """The most that the replica has had of it."""
        return np.int64(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    @method(inputs={"x": Tensor("float64", [-1])}, outputs={"total": Tensor("float64", [])})
    def total(self, x):
        return x.sum()

    @method(inputs={"x": Tensor("float32", [-1])}, outputs={"x": Tensor("float32", [-1])}, batchable=True)
    def echo(self, x):
        return x
