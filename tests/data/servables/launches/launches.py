"""A stand-in for a device: one thread computes what was launched, in order, while Python goes on.

Each call notes in ``log`` when it was launched, began and ended, with its first sample and how many it has. It ends
once the file ``gate`` exists, if one is given.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hpcserve import Batching, Tensor, method

X = {"x": Tensor("int64", [-1])}
Y = {"y": Tensor("int64", [-1]), "together": Tensor("int64", [-1])}
ONE = {"x": Tensor("int64", [])}


class Launches:
    def setup(self, context):
        self.context = context
        self.device = ThreadPoolExecutor(1)

    def launch(self, x, log="", gate="", seconds=0.01):
        def note(what):
            if log:
                with open(log, "a") as out:
                    out.write(f"{what} {x.flat[0]} {x.size} {os.getpid()}\n")

        def compute():
            note("began")
            time.sleep(seconds)
            while gate and not Path(gate).exists():
                time.sleep(0.002)
            note("ended")
            if (x == -2).any():
                os._exit(7)
            if (x == -3).any() and x.size > 1:
                raise MemoryError(f"no room for {x.size}")
            if (x == -1).any():
                raise ValueError("minus one")
            return {"y": 2 * x, "together": np.full(x.shape, x.size)}

        note("launched")
        if (x == -4).any():
            raise ValueError("it cannot be launched")
        return self.device.submit(compute)

    @method(inputs=X, outputs=Y, batchable=True, batching=Batching(max_batch_size=4), launches=True)
    def small(self, x, *, parameters):
        return self.launch(x, **parameters)

    @method(inputs=X, outputs=Y, batchable=True, launches=True)
    def predict(self, x, *, parameters):
        return self.launch(x, **parameters)

    @method(inputs=ONE, outputs={"y": Tensor("int64"), "together": Tensor("int64")}, launches=True)
    def alone(self, x, *, parameters):
        return self.launch(x, **parameters)

    @method(inputs=X, outputs=Y, launches=True)
    def at_once(self, x):
        return {"y": 2 * x, "together": np.full(len(x), len(x))}

    @method(inputs=ONE, outputs={"y": Tensor("int64")})
    def plain(self, x):
        return 3 * x

    @method(inputs=ONE, outputs={"y": Tensor("int64")})
    def count(self, x):
        for n in range(int(x)):
            time.sleep(0.001)
            yield n

    @method(inputs=ONE, outputs={"y": Tensor("int64")}, launches=True)
    def cancelled(self, x):
        def compute():
            while not self.context.cancelled:
                time.sleep(0.005)
            raise RuntimeError("nobody waits")

        return self.device.submit(compute)
