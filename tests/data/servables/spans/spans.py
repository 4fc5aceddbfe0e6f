"""Writes a line when a run begins, and one when it ends."""

import os
import select
import time

import numpy as np

from hpcserve import Tensor, method


class Spans:
    """Gives ``n`` back after ``parameters["sleep_s"]``.

    It appends ``begin n replica s`` and ``end n replica s`` to the file ``parameters["log"]``, ``s`` being seconds since
    1970 by the clock of its node.
    """

    def setup(self, context):
        self.replica = context.replica

    @method(inputs={"n": Tensor("int64")}, outputs={"n": Tensor("int64")})
    def run(self, n, *, parameters):
        log = os.open(parameters["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.write(log, "begin", n)
            # From Python 3.11 on time.sleep waits for a moment, and libfaketime 0.9.10 gets that wrong.
            select.select([], [], [], parameters["sleep_s"])
            self.write(log, "end", n)
        finally:
            os.close(log)
        return np.int64(n)

    def write(self, log, word, n):
        os.write(log, f"{word} {int(n)} {self.replica} {time.time():.3f}\n".encode())
