"""Rank 0's start: with the others, where there are some, it becomes what computes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hpcserve.errors import HpcserveError
from hpcserve.replica.broken import EXIT_BROKEN, DeviceBroken
from hpcserve.replica.collective import Collective
from hpcserve.replica.executor import Servable
from hpcserve.replica.guard import Guard
from hpcserve.replica.mpi import World
from hpcserve.replica.parallel import DataParallel
from hpcserve.replica.ranks import Answers, begin
from hpcserve.servable.loaded import Loaded
from hpcserve.wire.launch import ReplicaStart


class Lead:
    """Leads the others, or nobody.

    Args:
        world: All ranks; None where rank 0 is the only one.
        compute: ``ranks.compute`` of the manifest.
        grace_s: So long the others may take to return once a rank has failed.
    """

    def __init__(self, world: World | None, compute: str, grace_s: float) -> None:
        self._world = world
        self._compute = compute
        self._guard = Guard(grace_s, may_look=world is not None and world.has_threads)
        self._answers: Answers | None = None
        self._collective: Collective | None = None

    def on_lost(self, lost: Callable[[HpcserveError], object]) -> None:
        """What another thread does with an error when rank 0 waits for ever: to tell it, and end the process."""
        self._guard.lost = lost

    def begin(self, start: ReplicaStart) -> None:
        """Has the others set their servables up, while rank 0 does."""
        if self._world is not None:
            self._answers = begin(self._world, start)
            self._guard.watch(self._answers)

    def whole(self, loaded: Loaded) -> Servable:
        """What computes, once all ranks are set up.

        Raises:
            HpcserveError: A rank's setup failed.
        """
        if self._world is None or self._answers is None:
            return loaded
        self._guard.done()
        self._answers.wait(0.0)
        error = self._answers.error()
        if error is not None:
            raise error
        if self._compute == "data-parallel":
            return DataParallel(loaded, self._world)
        self._collective = Collective(loaded, self._world, self._guard)
        return self._collective

    def why_broken(self) -> HpcserveError | None:
        """Why the ranks can compute nothing more together; None where they can."""
        return None if self._collective is None else self._collective.broken


@contextmanager
def whole_or_none(world: World) -> Iterator[None]:
    """A rank that cannot go on ends all: MPI's own end would wait for those that still compute."""
    try:
        yield
    except DeviceBroken as error:
        sys.stderr.write(f"rank {world.rank} ends, for its GPU can compute no more in this process: {error}\n")
        world.abort(EXIT_BROKEN)
        raise
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        world.abort(1)
        raise
