"""Its setup takes 900 MiB, and holds them for a while."""

import time

import numpy as np

from hpcserve import Tensor, method


class Hungry:
    def setup(self, context):
        self.held = np.ones((900, 1 << 17))
        time.sleep(20)

    @method(inputs={"n": Tensor("int64")}, outputs={"n": Tensor("int64")})
    def run(self, n):
        return n
