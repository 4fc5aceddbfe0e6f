"""Collective ranks of which one has no memory for a large batch, while the other waits for it."""

import os
import time
from pathlib import Path

from hpcserve import Tensor, method

ROOM = 4
PAUSE_S = 0.01  # requests that take less alone are hardly joined
X = {"x": Tensor("int64", [-1])}


class Crowd:
    def setup(self, context):
        self.rank = context.rank
        self.notes = Path(os.environ["NOTES"])

    @method(inputs=X, outputs={"y": Tensor("int64", [-1])}, batchable=True)
    def twice(self, x, comm):
        if self.rank == 1:
            with self.notes.open("a") as notes:
                notes.write(f"{len(x)}\n")
        time.sleep(PAUSE_S)
        if self.rank == 1 and len(x) > ROOM:
            raise MemoryError(f"no room for {len(x)}")
        comm.Barrier()
        return 2 * x
