"""Methods of collective ranks: they compute together, and leave each other alone in every way."""

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np

from hpcserve import Tensor, method

X = {"x": Tensor("int64", [-1])}
PAUSE_S = 0.005  # requests that take less alone are hardly joined
Y = {"y": Tensor("int64", [-1])}


class Chorus:
    def setup(self, context):
        self.context = context
        self.rank, self.size = context.rank, context.size
        assert (context.comm.rank, context.comm.size) == (self.rank, self.size)
        self.notes = Path(os.environ["NOTES"]) if "NOTES" in os.environ else None
        if self.notes is not None:
            (self.notes / f"setup-{self.rank}").write_text(str(os.getpid()))
        if os.environ.get("FAILS") == str(self.rank):
            raise ValueError(f"no weights for rank {self.rank}")
        context.comm.Barrier()

    def noted(self, method, x):
        """Notes on rank 0 how many samples came together."""
        if self.notes is not None and self.rank == 0:
            with (self.notes / f"sizes-{method}").open("a") as sizes:
                sizes.write(f"{len(x)}\n")

    @method(inputs=X, outputs={"y": Tensor("int64", [-1])})
    def waits(self, x, *, parameters):
        """Reads what arrives, until it may go on."""
        while self.rank == 0 and not (self.notes / parameters["for"]).exists():
            assert not self.context.cancelled
            time.sleep(0.001)
        return x

    def teardown(self):
        if self.notes is not None:
            (self.notes / f"teardown-{self.rank}").write_text("")

    @method(inputs=X, outputs=Y, batchable=True)
    def total(self, x, comm):
        """Each rank computes a part of every sample."""
        mine = x * (self.rank + 1)
        whole = np.empty_like(mine)
        comm.Allreduce(mine, whole)
        return whole if self.rank == 0 else None

    @method(
        inputs={"text": Tensor("BYTES", [-1]), "value": Tensor("JSON")},
        outputs={"all": Tensor("JSON")},
    )
    def told(self, text, value, comm, *, parameters):
        return comm.gather([self.rank, [each.decode() for each in text], value, parameters])

    @method(inputs=X, outputs=Y)
    def troubled(self, x, comm, *, parameters):
        if self.rank in parameters.get("raise", ()):
            raise ValueError(f"rank {self.rank} cannot")
        if self.rank in parameters.get("die", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.rank in parameters.get("hang", ()):
            time.sleep(600)
        if self.rank in parameters.get("wait", ()):
            (self.notes / f"waits-{self.rank}").write_text("")
            comm.Barrier()
        return x

    def breaks(self, who, parameters):
        if self.rank in parameters.get(who, ()):
            raise ValueError(f"rank {self.rank} cannot")

    @method(inputs=X, outputs=Y)
    def sums(self, x, comm, *, parameters):
        """The sum is rank 0's alone: the others have sent, and go on. Those of "raise" take no part."""
        assert comm is self.context.comm
        self.breaks("raise", parameters)
        whole = np.empty_like(x)
        comm.Reduce(x * (self.rank + 1), whole, root=0)
        self.breaks("then", parameters)
        return whole

    @method(inputs=X, outputs=Y)
    def spreads(self, x, comm, *, parameters):
        """Rank 0 has sent, and goes on."""
        self.breaks("raise", parameters)
        mine = x if self.rank == 0 else np.empty_like(x)
        comm.Bcast(mine, root=0)
        return mine

    @method(inputs=X, outputs=Y)
    def sums_each(self, x, comm, *, parameters):
        for number, each in enumerate(x):
            if number == 2:
                self.breaks("raise", parameters)
            whole = np.empty(1, np.int64)
            comm.Reduce(np.array([each * (self.rank + 1)]), whole, root=0)
            yield whole

    @method(inputs=X, outputs=Y, batchable=True)
    def troubled_batch(self, x, comm):
        self.noted("troubled_batch", x)
        time.sleep(PAUSE_S)
        if (x < 0).any() and self.rank == 1:
            raise ValueError("a negative one")
        comm.Barrier()
        return x

    @method(inputs=X, outputs=Y, batchable=True)
    def crowded(self, x, comm):
        """With a sample of -1 rank 0 has no memory, with -2 rank 1."""
        self.noted("crowded", x)
        time.sleep(PAUSE_S)
        if x.min() == -1 - self.rank:
            raise MemoryError("no room")
        comm.Barrier()
        return x

    @method(inputs=X, outputs=Y)
    def counts(self, x, comm, *, parameters):
        for number in range(parameters.get("most", {}).get(str(self.rank), len(x))):
            if number == parameters.get("fail", {}).get(str(self.rank)):
                raise ValueError(f"rank {self.rank} cannot go on")
            yield np.array([comm.allreduce(int(x[number]))])

    @method(inputs=X, outputs=Y)
    def room(self, x, *, parameters):
        """Leaves a rank so many MiB more than it has now."""
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        if str(self.rank) in parameters:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(
                resource.RLIMIT_AS, (pages * resource.getpagesize() + (parameters[str(self.rank)] << 20), most)
            )
        else:
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return x

    @method(inputs=X, outputs=Y)
    def totals(self, x, comm):
        for each in x:
            yield np.array([comm.allreduce(int(each))])

    @method(inputs=X, outputs=Y)
    def lengths(self, x, *, parameters):
        for _ in range(parameters["most"][str(self.rank)]):
            yield x
