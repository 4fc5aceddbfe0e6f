"""Takes as much memory as it is told to, and holds it for a while."""

import time

import numpy as np

from hpcserve import Tensor, method


class Greedy:
    @method(inputs={"mib": Tensor("int64")}, outputs={"mib": Tensor("int64")})
    def take(self, mib):
        held = np.ones((int(mib), 1 << 17))
        if mib:
            time.sleep(20)
        return np.int64(len(held))
