"""Methods that tell of the batches that they were called with, and that fail in every way."""

import os
import signal
import time

import numpy as np

from hpcserve import Batching, SampleError, Tensor, method

X = {"x": Tensor("int64", [-1])}
Y = {"y": Tensor("int64", [-1]), "together": Tensor("int64", [-1])}


def answer(x):
    """Twice the input; and for each sample how many there were in the call."""
    return {"y": 2 * x, "together": np.full(len(x), len(x))}


class Batches:
    def setup(self, context):
        self.context = context

    @method(inputs=X, outputs=Y)
    def until_cancelled(self, x):
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            if self.context.cancelled:
                raise RuntimeError("nobody waits")
            time.sleep(0.005)
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True)
    def together_until_cancelled(self, x):
        ends = time.monotonic() + 60
        while (x > 0).all() and time.monotonic() < ends:
            if self.context.cancelled:
                raise RuntimeError("nobody waits")
            time.sleep(0.005)
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True)
    def plain(self, x):
        time.sleep(0.01)
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True, batching=Batching(max_batch_size=4))
    def small(self, x):
        time.sleep(0.01)
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True, batching=Batching(max_wait_ms=300))
    def patient(self, x):
        time.sleep(0.01)
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True)
    def with_parameters(self, x, *, parameters):
        time.sleep(0.01)
        return answer(x * parameters["times"])

    @method(inputs=X, outputs=Y, batchable=True)
    def raises(self, x):
        time.sleep(0.005)
        if (x < 0).any():
            raise ValueError(f"negative: {x[x < 0][0]}")
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True, idempotent=False)
    def once(self, x):
        time.sleep(0.005)
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True)
    def takes_out(self, x, *, parameters):
        times = parameters.pop("times")
        time.sleep(0.005)
        if (x < 0).any():
            raise ValueError("negative")
        return answer(times * x)

    @method(inputs=X, outputs=Y, batchable=True)
    def names(self, x):
        time.sleep(0.005)
        if (x < 0).any():
            raise SampleError(int(np.argmax(x < 0)), f"negative: {x[x < 0][0]}")
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True)
    def hungry(self, x):
        time.sleep(0.005)
        if len(x) > 6:
            raise MemoryError(f"no room for {len(x)}")
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True)
    def loses_one(self, x):
        time.sleep(0.005)
        return answer(x[1:] if (x < 0).any() else x)

    @method(inputs=X, outputs=Y, batchable=True)
    def dies(self, x):
        time.sleep(0.005)
        if (x < 0).any():
            os._exit(7)
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True)
    def segfaults(self, x):
        time.sleep(0.005)
        if (x < 0).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        return answer(x)

    @method(inputs=X, outputs=Y, batchable=True)
    def names_nobody(self, x):
        time.sleep(0.005)
        if (x < 0).any():
            raise SampleError(len(x) + 5 if len(x) % 2 else -1, "whose?")
        return answer(x)

    @method(inputs={"x": Tensor("int64", [-1]), "k": Tensor("int64", [-1])}, outputs=Y, batchable=True)
    def two(self, x, k):
        time.sleep(0.005)
        return {"y": x * k, "together": np.full(len(x), len(x))}

    @method(
        inputs={"tokens": Tensor("int32", [-1, -1])},
        outputs={"next": Tensor("int32", [-1, -1]), "together": Tensor("int64", [-1])},
        batchable=True,
        batching=Batching(pad={"tokens": -1}, cut={"next": "tokens"}),
    )
    def ragged(self, tokens):
        time.sleep(0.01)
        return {"next": tokens + 1, "together": np.full(len(tokens), len(tokens))}

    @method(
        inputs={"v": Tensor("float32", [-1, -1])}, outputs={"v": Tensor("float32", [-1, -1])}, batchable=True
    )
    def shapes(self, v):
        time.sleep(0.01)
        return v
