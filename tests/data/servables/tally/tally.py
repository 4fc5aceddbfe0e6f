"""Writes a line for each run."""

import os
import time

import numpy as np

from hpcserve import Tensor, method

IN = {"n": Tensor("int64")}
OUT = {"n": Tensor("int64")}


class Tally:
    """Gives ``n`` back after ``parameters["sleep_s"]``, and appends ``n`` to the file ``parameters["log"]``.

    With ``parameters["gates"]`` it waits first until there is a file ``n`` or ``all`` in this directory.
    """

    def setup(self, context):
        self.replica = context.replica

    def run(self, n, parameters):
        with open(parameters["log"], "a") as log:
            log.write(f"{parameters.get('tag', '')}{int(n)} {self.replica} {os.getpid()}\n")
        self.wait(int(n), parameters)
        return np.int64(n)

    def wait(self, n, parameters):
        gates = parameters.get("gates")
        while gates and not any(os.path.exists(f"{gates}/{name}") for name in (n, "all")):
            time.sleep(0.005)
        time.sleep(parameters.get("sleep_s", 0.0))

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
        self.wait(blob.size, parameters)
        return np.int64(blob.size)
