"""What waits for one deployment, and the replicas that take it."""

from __future__ import annotations

from collections.abc import Iterable

from hpcserve.core.queue import RequestQueue
from hpcserve.core.replicas import LeastLoaded, Replica
from hpcserve.types import DeploymentName

RESERVE = 8
"""So many urgent requests are given to a replica beyond its credit."""


class Lane:
    """The queue of a deployment beside its replicas, which are ordered by load.

    A replica that has all the credit it wants still has a batch before it that has not begun. Urgent requests (of a
    priority above 0) are sent past that: they run in the next batch, not in the one after it. For them there is a
    second order, which is kept from the first such request on.
    """

    __slots__ = ("load", "name", "queue", "reserve")

    def __init__(self, name: DeploymentName) -> None:
        self.name = name
        self.queue = RequestQueue()
        self.load = LeastLoaded()
        self.reserve: LeastLoaded | None = None

    def update(self, replica: Replica) -> None:
        """The replica's load or credit changed."""
        self.load.update(replica)
        if self.reserve is not None:
            self.reserve.update(replica)

    def discard(self, replica: Replica) -> None:
        """The replica takes nothing any more, or nothing for now."""
        self.load.discard(replica)
        if self.reserve is not None:
            self.reserve.discard(replica)

    def pick_reserved(self, replicas: Iterable[Replica]) -> Replica | None:
        """The replica for an urgent request when none has credit; ``replicas`` are all that there are."""
        if self.reserve is None:
            self.reserve = LeastLoaded(RESERVE)
            for replica in replicas:
                if replica.lane is self:
                    self.reserve.update(replica)
        return self.reserve.pick()
