"""The replicas of one agent, brought in line with the last Orders.

Orders list everything that is to run, so obeying them twice, or missing one, changes nothing. A replica
runs once: whatever way it ends, its id is not started again. Each goes to the node with the fewest of them, into its
lowest free slot. One that is being stopped holds none any more: its successor, which may be started before it has
ended, would have to share another's for as long as it lives.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import count

from hpcserve.errors import HpcserveError
from hpcserve.pilot.children import Child, Surroundings
from hpcserve.pilot.outcome import Stop
from hpcserve.types import LossKind, ReplicaId
from hpcserve.wire.agents import Orders, ReplicaSpec, ReplicaStatus

_log = logging.getLogger(__name__)

MOST_OVER = 1000
"""How many forgotten replicas are remembered: orders that list one of them came late."""


class Roster:
    """All replicas that this agent has been told of, on the nodes of its job, the agent's own first."""

    def __init__(self, around: Surroundings, nodes: Sequence[str]) -> None:
        self._around = around
        self._nodes = tuple(nodes)
        self._lost: set[str] = set()
        self._shunned: frozenset[str] = frozenset()
        self._children: dict[ReplicaId, Child] = {}
        self._stillborn: dict[ReplicaId, ReplicaStatus] = {}
        self._over: dict[ReplicaId, None] = {}

    def obey(self, orders: Orders, now: float) -> None:
        """Starts what is missing, stops what is not listed, kills and forgets what the orders say."""
        self._lose(orders.lost_nodes)
        for replica in orders.kill:
            if replica in self._children:
                self._children[replica].kill(Stop("killed as ordered"))
        self._forget(orders.forget)
        listed = {spec.replica for spec in orders.replicas}
        for replica, child in self._children.items():
            if replica not in listed:
                child.stop(Stop("stopped as ordered"), now)
        for spec in orders.replicas:
            if spec.replica in self._over:
                del self._over[spec.replica]
                self._say_ended(spec, "exited", "it ended earlier, and was forgotten")
            elif spec.replica not in self._children and spec.replica not in self._stillborn:
                self._start(spec, now)

    def stop_all(self, why: Stop, now: float) -> None:
        """Stops every replica."""
        self._around.images.stop()
        for child in self._children.values():
            child.stop(why, now)

    def kill_all(self, why: Stop) -> None:
        """Kills every replica."""
        self._around.images.stop()
        for child in self._children.values():
            child.kill(why)

    def tick(self, now: float) -> None:
        """Keeps setup time-outs and graces, has images copied, and notes which replicas have ended."""
        self._around.images.tick(
            self.usable_nodes, {child.image for child in self._children.values() if child.image and not child.ended}
        )
        for child in self._children.values():
            child.tick(now)
            child.reap(now)
            if child.lost_node and child.node not in self._lost:
                self._mark_lost(child.node)

    @property
    def lost_nodes(self) -> tuple[str, ...]:
        """Where nothing can be started any more, as srun itself has said."""
        return tuple(node for node in self._nodes if node in self._lost)

    @property
    def usable_nodes(self) -> tuple[str, ...]:
        """All others but those that the daemon takes for lost at present."""
        return tuple(node for node in self._nodes if node not in self._lost | self._shunned)

    @property
    def empty(self) -> bool:
        """Whether no process is left."""
        return self._around.images.empty and all(child.ended for child in self._children.values())

    @property
    def due_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        dues = [self._around.images.due_s, *(child.due_s for child in self._children.values())]
        return min((due for due in dues if due is not None), default=None)

    @property
    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """What the report says of all replicas that are not forgotten."""
        return (*(child.status for child in self._children.values()), *self._stillborn.values())

    def _start(self, spec: ReplicaSpec, now: float) -> None:
        running = Counter(child.node for child in self._staying)
        node = min(self.usable_nodes, key=lambda node: running[node], default="")
        if not node:
            self._say_ended(spec, "failed", "it cannot be started: every node of its pilot is lost", "node failed")
            return
        try:
            self._children[spec.replica] = Child(spec, node, self._free_slot(node), self._around, now)
            _log.info("replica %s of %s started on %s", spec.replica, spec.deployment, node)
        except (OSError, HpcserveError) as error:
            _log.warning("replica %s of %s cannot be started: %s", spec.replica, spec.deployment, error)
            self._say_ended(spec, "failed", f"it cannot be started: {error}", "crashed")
        self._around.changed()

    def _free_slot(self, node: str) -> int:
        """The lowest number that none that stays there holds."""
        held = {child.slot for child in self._staying if child.node == node}
        return next(slot for slot in count() if slot not in held)

    @property
    def _staying(self) -> list[Child]:
        return [child for child in self._children.values() if not (child.ended or child.stopping)]

    def _lose(self, nodes: Collection[str]) -> None:
        """The daemon says so: the processes that stand for replicas there would wait for it much longer.

        It may take a node back, but none of which srun itself has said that it is lost.
        """
        shunned = self._shunned
        self._shunned = frozenset(nodes).intersection(self._nodes)
        if shunned != self._shunned:
            unusable = [node for node in self._nodes if node not in self.usable_nodes]
            _log.warning("nothing is started on these nodes: %s", ", ".join(unusable) or "none")
            self._around.changed()
        for child in self._children.values():
            if child.node in nodes:
                child.abandon(Stop(f"its node {child.node} failed", "node failed"))

    def _mark_lost(self, node: str) -> None:
        _log.warning("node %s is lost: nothing will be started there", node)
        self._lost.add(node)
        self._around.changed()

    def _say_ended(self, spec: ReplicaSpec, state: str, cause: str, kind: LossKind = "") -> None:
        self._stillborn[spec.replica] = ReplicaStatus(
            spec.replica, state, b"", cause=cause, deployment=spec.deployment, version=spec.version, kind=kind
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
