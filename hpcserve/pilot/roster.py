"""The replicas of one agent, brought in line with the last Orders.

Orders list everything that is to run, so obeying them twice, or missing one, changes nothing. A replica
runs once: whatever way it ends, its id is not started again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from hpcserve.errors import HpcserveError
from hpcserve.pilot.children import Child, Surroundings
from hpcserve.types import ReplicaId
from hpcserve.wire.messages import Orders, ReplicaSpec, ReplicaStatus

_log = logging.getLogger(__name__)

MOST_OVER = 1000
"""How many forgotten replicas are remembered: orders that list one of them came late."""


class Roster:
    """All replicas that this agent has been told of."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._children: dict[ReplicaId, Child] = {}
        self._stillborn: dict[ReplicaId, ReplicaStatus] = {}
        self._over: dict[ReplicaId, None] = {}

    def obey(self, orders: Orders, now: float) -> None:
        """Starts what is missing, stops what is not listed, kills and forgets what the orders say."""
        for replica in orders.kill:
            if replica in self._children:
                self._children[replica].kill("killed as ordered")
        self._forget(orders.forget)
        listed = {spec.replica for spec in orders.replicas}
        for replica, child in self._children.items():
            if replica not in listed:
                child.stop("stopped as ordered", now)
        for spec in orders.replicas:
            if spec.replica in self._over:
                del self._over[spec.replica]
                self._say_ended(spec, "exited", "it ended earlier, and was forgotten")
            elif spec.replica not in self._children and spec.replica not in self._stillborn:
                self._start(spec, now)

    def stop_all(self, cause: str, now: float) -> None:
        """Stops every replica."""
        for child in self._children.values():
            child.stop(cause, now)

    def kill_all(self, cause: str) -> None:
        """Kills every replica."""
        for child in self._children.values():
            child.kill(cause)

    def tick(self, now: float) -> None:
        """Keeps setup time-outs and graces, and notes which replicas have ended."""
        for child in self._children.values():
            child.tick(now)
            child.reap()

    @property
    def empty(self) -> bool:
        """Whether no process is left."""
        return all(child.ended for child in self._children.values())

    @property
    def due_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        dues = [child.due_s for child in self._children.values()]
        return min((due for due in dues if due is not None), default=None)

    @property
    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """What the report says of all replicas that are not forgotten."""
        return (*(child.status for child in self._children.values()), *self._stillborn.values())

    def _start(self, spec: ReplicaSpec, now: float) -> None:
        try:
            self._children[spec.replica] = Child(spec, self._around, now)
            _log.info("replica %s of %s started", spec.replica, spec.deployment)
        except (OSError, HpcserveError) as error:
            _log.warning("replica %s of %s cannot be started: %s", spec.replica, spec.deployment, error)
            self._say_ended(spec, "failed", f"it cannot be started: {error}")
        self._around.changed()

    def _say_ended(self, spec: ReplicaSpec, state: str, cause: str) -> None:
        self._stillborn[spec.replica] = ReplicaStatus(
            spec.replica, state, b"", cause=cause, deployment=spec.deployment, version=spec.version
        )
        self._around.changed()

    def _forget(self, replicas: Iterable[ReplicaId]) -> None:
        for replica in replicas:
            if replica in self._stillborn:
                del self._stillborn[replica]
            elif replica in self._children and self._children[replica].ended:
                del self._children[replica]
            else:
                continue
            self._over[replica] = None
            self._around.changed()
        while len(self._over) > MOST_OVER:
            del self._over[next(iter(self._over))]
