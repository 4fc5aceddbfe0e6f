"""A method that fills memory, of which its process may have only a little more than it has at the beginning."""

import resource
import time
from pathlib import Path

import numpy as np

from hpcserve import Tensor, method

SAMPLE_BYTES = 16 << 20
ROOM_BYTES = 24 * SAMPLE_BYTES


class Confined:
    def setup(self):
        held_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held_bytes + ROOM_BYTES,) * 2)

    @method(
        inputs={"x": Tensor("int64", [-1])},
        outputs={"y": Tensor("int64", [-1]), "together": Tensor("int64", [-1])},
        batchable=True,
    )
    def fill(self, x):
        time.sleep(0.01)
        filled = np.empty((len(x), SAMPLE_BYTES // 8), np.int64)
        filled[:, 0] = x
        return {"y": filled[:, 0].copy(), "together": np.full(len(x), len(x))}
