"""Writes a line for each run."""

import os
import time

import numpy as np

from hpcserve import Tensor, method

IN = {"n": Tensor("int64")}
OUT = {"n": Tensor("int64")}


class Tally:
    """Gives ``n`` back after ``parameters["sleep_s"]``, and appends ``n`` to the file ``parameters["log"]``."""

    def setup(self, context):
        self.replica = context.replica

    def run(self, n, parameters):
        with open(parameters["log"], "a") as log:
            log.write(f"{parameters.get('tag', '')}{int(n)} {self.replica} {os.getpid()}\n")
        time.sleep(parameters.get("sleep_s", 0.0))
        return np.int64(n)

    @method(inputs=IN, outputs=OUT)
    def again(self, n, *, parameters):
        return self.run(n, parameters)

    @method(inputs=IN, outputs=OUT, idempotent=False)
    def once(self, n, *, parameters):
        return self.run(n, parameters)

    @method(inputs=IN, outputs=OUT | {"blob": Tensor("uint8", [-1])})
    def bulk(self, n, *, parameters):
        return {"n": self.run(n, parameters), "blob": np.full(parameters["size_bytes"], int(n), np.uint8)}

    @method(inputs={"size": Tensor("int64")}, outputs={"blob": Tensor("uint8", [-1])})
    def blob(self, size):
        return np.zeros(int(size), np.uint8)

    @method(inputs={"blob": Tensor("uint8", [-1])}, outputs={"size": Tensor("int64")})
    def measure(self, blob, *, parameters):
        time.sleep(parameters.get("sleep_s", 0.0))
        return np.int64(blob.size)
