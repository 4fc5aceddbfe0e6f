"""Looks at the names of GPUs once, when it is imported, as libraries do."""

import os
import time

from hpcserve import Tensor, method

SEEN = os.environ.get("CUDA_VISIBLE_DEVICES", "")


class Devices:
    """Tells after ``parameters["sleep_s"]`` what it saw."""

    @method(inputs={"n": Tensor("int64")}, outputs={"seen": Tensor("JSON")})
    def run(self, n, *, parameters):
        time.sleep(parameters["sleep_s"])
        return SEEN
