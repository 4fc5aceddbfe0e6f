"""What waits for one deployment, and the replicas that take it."""

from __future__ import annotations

from hpcserve.core.queue import RequestQueue
from hpcserve.core.replicas import LeastLoaded
from hpcserve.types import DeploymentName


class Lane:
    """The queue of a deployment beside its replicas, which are ordered by load."""

    __slots__ = ("load", "name", "queue")

    def __init__(self, name: DeploymentName) -> None:
        self.name = name
        self.queue = RequestQueue()
        self.load = LeastLoaded()
