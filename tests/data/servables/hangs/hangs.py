"""Sleeps for ever when it is told to, and writes down who does."""

import os
import time

import numpy as np

from hpcserve import Tensor, method


class Hangs:
    @method(inputs={"n": Tensor("int64")}, outputs={"n": Tensor("int64")})
    def run(self, n, *, parameters):
        if "log" in parameters:
            with open(parameters["log"], "a") as log:
                log.write(f"{os.getpid()}\n")
            while True:
                time.sleep(3600)
        return np.int64(n)
