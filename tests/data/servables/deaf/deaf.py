"""Sleeps as long as it is told to, or until a file exists, and never asks whether anybody still waits; writes down what
it begins.
"""

import os
import time

import numpy as np

from hpcserve import Tensor, method

S = {"s": Tensor("float64", [-1])}
OUT = {"together": Tensor("int64", [-1])}


class Deaf:
    def run(self, s, parameters):
        with open(parameters["log"], "a") as log:
            log.write(f"{' '.join(map(str, sorted(s)))} {os.getpid()}\n")
        while "gate" in parameters and not os.path.exists(parameters["gate"]):
            time.sleep(0.005)
        time.sleep(s.max())
        return np.full(len(s), len(s))

    @method(inputs=S, outputs=OUT, batchable=True)
    def joined(self, s, *, parameters):
        return self.run(s, parameters)

    @method(inputs=S, outputs=OUT)
    def alone(self, s, *, parameters):
        return self.run(s, parameters)

    @method(inputs=S, outputs=OUT, idempotent=False)
    def once(self, s, *, parameters):
        return self.run(s, parameters)
