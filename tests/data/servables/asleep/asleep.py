"""Its setup never ends, and does not care for SIGTERM."""

import signal
import time

from hpcserve import Tensor, method


class Asleep:
    def setup(self, context):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(3600)

    @method(inputs={"n": Tensor("int64")}, outputs={"n": Tensor("int64")})
    def run(self, n):
        return n
