"""Ends its process when it is given a negative number."""

import os
import time

import numpy as np

from hpcserve import Tensor, method


@method(inputs={"n": Tensor("int64")}, outputs={"n": Tensor("int64")})
def run(n):
    time.sleep(0.005)
    if n < 0:
        os._exit(7)
    return np.int64(n)
