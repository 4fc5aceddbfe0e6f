"""Methods of data-parallel ranks: they tell who computed what, and fail in every way."""

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np

from hpcserve import SampleError, Tensor, method

X = {"x": Tensor("int64", [-1])}
PAUSE_S = 0.005  # requests that take less alone are hardly joined
ANY = [-1, -1]


def with_room(mb):
    """Leaves this process so many MiB more than it has now; None: as many as there are."""
    if mb is None:
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
    else:
        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def echo(dtype):
    @method(inputs={"x": Tensor(dtype, ANY)}, outputs={"y": Tensor(dtype, ANY)}, batchable=True)
    def same(self, x):
        return x

    return same


class Divided:
    def setup(self, context):
        self.context = context
        self.notes = Path(os.environ["NOTES"]) if "NOTES" in os.environ else None
        self.before = None
        self.note("setup")

    def note(self, what):
        if self.notes is not None:
            (self.notes / f"{what}-{self.context.rank}").write_text(str(os.getpid()))

    def noted(self, method, x):
        """Notes on rank 0 how many samples came together."""
        if self.notes is not None and self.context.rank == 0:
            with (self.notes / f"sizes-{method}").open("a") as sizes:
                sizes.write(f"{len(x)}\n")

    @method(inputs=X, outputs={"y": Tensor("int64", [-1])})
    def waits(self, x, *, parameters):
        """Reads what arrives, until it may go on."""
        while self.context.rank == 0 and not (self.notes / parameters["for"]).exists():
            assert not self.context.cancelled
            time.sleep(0.001)
        return x

    def teardown(self):
        self.note("teardown")

    float32, uint8, bfloat16, float64 = map(echo, ("float32", "uint8", "bfloat16", "float64"))

    @method(inputs=X, outputs={"rank": Tensor("int32", [-1]), "share": Tensor("int64", [-1, 1])}, batchable=True)
    def who(self, x):
        return {
            "rank": np.full(len(x), self.context.rank, np.int32),
            "share": np.full((len(x), 1), len(x)),
        }

    @method(inputs={"x": Tensor("BYTES", [-1])}, outputs={"y": Tensor("BYTES", [-1])}, batchable=True)
    def upper(self, x):
        return np.array([each.upper() * self.context.size for each in x], object)

    @method(inputs={"x": Tensor("float32", [-1, 0])}, outputs={"n": Tensor("float32", [-1, 0])}, batchable=True)
    def nothing(self, x):
        return x

    @method(inputs={"x": Tensor("BYTES", [-1])}, outputs={"y": Tensor("BYTES", [-1])}, batchable=True)
    def long(self, x, *, parameters):
        """Texts of so many MiB; ``room_mb``: more memory than these this rank has not until the next call."""
        with_room(parameters.get("room_mb", {}).get(str(self.context.rank)))
        return np.array([each * (parameters.get("mb", 0) << 20 or 1) for each in x], object)

    @method(inputs=X, outputs={"y": Tensor("int64", [-1])}, batchable=True)
    def keeps(self, x):
        """The input of the call before; memory that is used again too soon would show."""
        before, self.before = self.before, x
        return x if before is None or len(before) != len(x) else before.copy()

    @method(inputs=X, outputs={"y": Tensor("int64", [-1])}, batchable=True)
    def troubled(self, x, *, parameters):
        self.noted("troubled", x)
        time.sleep(PAUSE_S)
        most = parameters.get("most", len(x))
        if parameters.get("outside") == self.context.rank and len(x) > 1:
            raise SampleError(len(x), "one that this rank has not")
        for place, value in enumerate(x):
            if value == -1:
                raise SampleError(place, f"the value {value}")
            if value == -2:
                raise ValueError("minus two")
            if value == -3:
                os.kill(os.getpid(), signal.SIGKILL)
            if value == -4:
                time.sleep(600)
            if value == -5:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if len(x) > most:
            raise MemoryError(f"{len(x)} samples")
        return 2 * x

    @method(inputs=X, outputs={"share": Tensor("int64", [-1])}, batchable=True)
    def small(self, x):
        """More than two samples are too many for one rank: batches of up to eleven fit."""
        if self.context.rank == 3 and len(x) > 2:
            raise MemoryError(f"{len(x)} samples")
        return np.full(len(x), len(x))

    @method(inputs=X, outputs={"y": Tensor("int64", ANY)}, batchable=True)
    def ragged(self, x):
        return np.zeros((len(x), 1 + self.context.rank), np.int64)

    @method(inputs=X, outputs={"y": Tensor("int64", [-1])}, batchable=True)
    def short(self, x):
        return x[:-1] if self.context.rank == 2 else x

    @method(inputs=X, outputs={"rank": Tensor("int64")})
    def alone(self, x):
        return self.context.rank

    @method(inputs=X, outputs={"rank": Tensor("int64")})
    def items(self, x):
        for _ in x:
            yield self.context.rank
