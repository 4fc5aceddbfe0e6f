"""What ``python -m benchmarks ranks`` runs on each rank: pairs of rank 0's own run and of bare mpi4py.

Both scatter the same batch and gather as many bytes. The servable returns what it is given, so nothing is computed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from hpcserve.core.shares import shares, starts
from hpcserve.replica.follower import Follower
from hpcserve.replica.gauge import Gauge
from hpcserve.replica.mpi import World
from hpcserve.replica.parallel import DataParallel
from hpcserve.replica.rank import Rank
from hpcserve.servable.loaded import Loaded, Method
from hpcserve.servable.manifest import MethodSpec, TensorDecl

SAMPLE = 4096
"""Floats of a sample: 16 KiB."""
WARM_UP = 3


def identity(inputs: Mapping[str, Any], _parameters: Mapping[str, Any]) -> object:
    """The method."""
    return inputs["x"]


def loaded() -> Loaded:
    """The servable of every rank."""
    spec = MethodSpec(
        inputs=(TensorDecl(name="x", dtype="float32", shape=(-1, SAMPLE)),),
        outputs=(TensorDecl(name="y", dtype="float32", shape=(-1, SAMPLE)),),
        batchable=True,
    )
    return Loaded({"identity": Method(spec, identity)})


class Bare:
    """A Scatterv and a Gatherv between buffers that stay where they are."""

    def __init__(self, samples: int) -> None:
        self.comm = MPI.COMM_WORLD
        counts = [count * SAMPLE for count in shares(samples, self.comm.size)]
        self.counts, self.places = counts, list(starts(counts))
        self.share = np.empty(counts[self.comm.rank], np.float32)
        self.whole = np.zeros(sum(counts), np.float32)

    def run(self, batch: npt.NDArray[Any] | None) -> None:
        """One of each; rank 0 has the batch."""
        root = self.comm.rank == 0
        self.comm.Scatterv([batch, self.counts, self.places, MPI.FLOAT] if root else None, self.share, 0)
        self.comm.Gatherv(self.share, [self.whole, self.counts, self.places, MPI.FLOAT] if root else None, 0)


def lead(world: World, group: DataParallel, bare: Bare, batch: npt.NDArray[Any], pairs: int) -> list[dict[str, float]]:
    """Rank 0: seconds of both, in pairs that take turns in who is the first."""
    found = []
    for number in range(WARM_UP + pairs):
        pair: dict[str, float] = {}
        for side in ("hpcserve", "bare") if number % 2 else ("bare", "hpcserve"):
            world.comm.bcast(side)
            world.comm.Barrier()
            began_s = time.perf_counter()
            if side == "bare":
                bare.run(batch)
                pair[side] = time.perf_counter() - began_s
            else:
                outputs = group.run("identity", {"x": batch}, {})
                pair[side] = time.perf_counter() - began_s
                group.teardown()  # the others leave their loop, to come to the next side
                assert np.array_equal(outputs["y"][:: SAMPLE // 4], batch[:: SAMPLE // 4])
        found.append(pair)
    world.comm.bcast("")
    return found[WARM_UP:]


def follow(world: World, follower: Follower, bare: Bare) -> None:
    """The others."""
    while side := world.comm.bcast(None):
        world.comm.Barrier()
        if side == "bare":
            bare.run(None)
        else:
            follower.serve()


def main(size: int, size_mb: int, pairs: int) -> None:
    """One rank; rank 0 prints what was measured."""
    rank = MPI.COMM_WORLD.rank
    world = World(Rank(rank, size, (rank,), size))
    samples = size_mb * 1_000_000 // (4 * SAMPLE)
    bare = Bare(samples)
    if rank:
        follow(world, Follower(loaded(), world, Gauge(None)), bare)
        return
    batch = np.random.default_rng(0).random((samples, SAMPLE), np.float32)
    print(json.dumps(lead(world, DataParallel(loaded(), world), bare, batch, pairs)), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
