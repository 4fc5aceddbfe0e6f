"""A torch model on a device that is too small, and that breaks."""

import os

import torch

from hpcserve import Batching, Tensor, method

ROOM = 8
"""Samples of a batch."""
STICKY = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
X = {"x": Tensor("int64", [-1])}
Y = {"y": Tensor("int64", [-1]), "pid": Tensor("int64", [-1])}
TOGETHER = Batching(max_wait_ms=20)


class Narrow:
    """Doubles what it is given; ``broken`` is what a CUDA context is after a sticky error."""

    def __init__(self):
        self.broken = False

    @method(inputs=X, outputs=Y, batchable=True, batching=TOGETHER)
    def double(self, x):
        if len(x) > ROOM:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)}.00 GiB")
        return self._answer(x)

    @method(inputs=X, outputs=Y, batchable=True, batching=TOGETHER)
    def touchy(self, x):
        self.broken = self.broken or bool((x < 0).any())
        if self.broken:
            raise torch.AcceleratorError(STICKY)
        return self._answer(x)

    def _answer(self, x):
        y = 2 * torch.from_numpy(x)
        return {"y": y.numpy(), "pid": torch.full_like(y, os.getpid()).numpy()}

    def teardown(self):
        print("torn down")
