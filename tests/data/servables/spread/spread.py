"""Data-parallel ranks on several nodes: each tells where it computes."""

import os
import subprocess

import numpy as np

from hpcserve import Tensor, method


class Spread:
    def setup(self, context):
        self.rank, self.node = context.rank, os.uname().nodename.encode()

    @method(
        inputs={"x": Tensor("int64", [-1])},
        outputs={"y": Tensor("int64", [-1]), "rank": Tensor("int64", [-1]), "node": Tensor("BYTES", [-1])},
        batchable=True,
    )
    def twice(self, x):
        return {"y": 2 * x, "rank": np.full_like(x, self.rank), "node": np.array([self.node] * len(x), object)}

    @method(inputs={"x": Tensor("int64", [-1])}, outputs={"y": Tensor("int64", [-1])}, batchable=True, idempotent=False)
    def note(self, x, *, parameters):
        """Each rank appends a line for each of its samples to the file ``parameters["log"]``."""
        with open(parameters["log"], "a") as log:
            log.write("".join(f"{number} {self.rank}\n" for number in x))
        return 2 * x

    @method(
        inputs={"x": Tensor("int64", [-1])}, outputs={"pid": Tensor("int64", [-1])}, batchable=True, idempotent=False
    )
    def start(self, x):
        """Each rank starts a process that leaves its session, and one that leaves its parent too."""
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        subprocess.run(["sh", "-c", "sleep 600 &"], start_new_session=True, check=True)
        return np.full_like(x, os.getpid())
