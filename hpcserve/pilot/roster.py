"""The replicas of one agent, brought in line with the last Orders.

Orders list everything that is to run, so obeying them twice, or missing one, changes nothing. A replica
runs once: whatever way it ends, its id is not started again. Which nodes and slots each takes, is decided in
:mod:`hpcserve.pilot.ranks`; one that finds no room there waits, and is starting meanwhile. One that is being stopped
holds no slot any more for a replica of one slot: its successor, which may be started before it has ended, would have to
share another's for as long as it lives. Any larger one, to which its slots must belong alone, waits until it has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from hpcserve.cluster.hostlist import named
from hpcserve.errors import HpcserveError
from hpcserve.pilot.children import LASTING, Child, Surroundings
from hpcserve.pilot.outcome import Stop
from hpcserve.pilot.ranks import Need, Place, need_of, never, place, waits
from hpcserve.servable.manifest import from_json
from hpcserve.types import LossKind, ReplicaId
from hpcserve.wire.agents import Orders, ReplicaSpec, ReplicaStatus

_log = logging.getLogger(__name__)

MOST_OVER = 1000
"""How many forgotten replicas are remembered: orders that list one of them came late."""


@dataclass(slots=True)
class _Waiting:
    """A replica that is to run, and has no place yet; why not, once that was looked for."""

    spec: ReplicaSpec
    need: Need
    cause: str = ""

    @property
    def status(self) -> ReplicaStatus:
        spec = self.spec
        return ReplicaStatus(
            spec.replica, "starting", b"", cause=self.cause, deployment=spec.deployment, version=spec.version
        )


class Roster:
    """All replicas that this agent has been told of, on the nodes of its job, the agent's own first."""

    def __init__(self, around: Surroundings, nodes: Sequence[str]) -> None:
        self._around = around
        self._nodes = tuple(nodes)
        self._lost: set[str] = set()
        self._shunned: frozenset[str] = frozenset()
        self._children: dict[ReplicaId, Child] = {}
        self._waiting: dict[ReplicaId, _Waiting] = {}
        self._stillborn: dict[ReplicaId, ReplicaStatus] = {}
        self._over: dict[ReplicaId, None] = {}

    def obey(self, orders: Orders, now: float) -> None:
        """Starts what is missing, stops what is not listed, kills and forgets what the orders say."""
        self._lose(orders.lost_nodes)
        for replica in orders.kill:
            self._give_up(replica, Stop("killed as ordered"))
            if replica in self._children:
                self._children[replica].kill(Stop("killed as ordered"))
        self._forget(orders.forget)
        listed = {spec.replica for spec in orders.replicas}
        for replica, child in self._children.items():
            if replica not in listed:
                child.stop(Stop("stopped as ordered"), now)
        for replica in self._waiting.keys() - listed:
            self._give_up(replica, Stop("stopped as ordered"))
        for spec in orders.replicas:
            if spec.replica in self._over:
                del self._over[spec.replica]
                self._say_ended(spec, "exited", "it ended earlier, and was forgotten")
            elif not any(spec.replica in known for known in (self._children, self._waiting, self._stillborn)):
                self._await(spec)
        self._seat(now)

    def stop_all(self, why: Stop, now: float) -> None:
        """Stops every replica."""
        self._give_up_all(why)
        self._around.images.stop()
        for child in self._children.values():
            child.stop(why, now)

    def kill_all(self, why: Stop) -> None:
        """Kills every replica."""
        self._give_up_all(why)
        self._around.images.stop()
        for child in self._children.values():
            child.kill(why)

    def tick(self, now: float) -> None:
        """Keeps time-outs and graces, notes which have ended, starts what waits for room, and has images copied."""
        for child in self._children.values():
            child.tick(now)
            child.reap(now)
            if child.lost_node:
                self._mark_lost(child)
        self._seat(now)
        self._around.images.tick(
            self.usable_nodes, {child.image for child in self._children.values() if child.image and not child.ended}
        )

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
    def kill_s(self) -> float:
        """So much longer than their grace the end of all may take."""
        return max((child.kill_s for child in self._children.values()), default=0.0)

    @property
    def due_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        dues = [self._around.images.due_s, *(child.due_s for child in self._children.values())]
        return min((due for due in dues if due is not None), default=None)

    @property
    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """What the report says of all replicas that are not forgotten."""
        waiting = (each.status for each in self._waiting.values())
        return (*(child.status for child in self._children.values()), *waiting, *self._stillborn.values())

    def _await(self, spec: ReplicaSpec) -> None:
        try:
            need = need_of(from_json(spec.manifest).ranks, self._around.replicas_per_gpu)
        except HpcserveError as error:
            self._say_unfit(spec, error)
            return
        self._waiting[spec.replica] = _Waiting(spec, need)

    def _seat(self, now: float) -> None:
        """Starts what waits and has room, in the order in which it came."""
        for replica, waiting in list(self._waiting.items()):
            nodes, slots = self.usable_nodes, self._around.slots
            held = {node: self._held(node, waiting.need) for node in nodes}
            found = place(waiting.need, held, slots)
            if found is not None:
                del self._waiting[replica]
                self._start(waiting.spec, found, now)
            elif never(waiting.need, len(nodes), slots):
                del self._waiting[replica]
                self._say_never(waiting)
            elif waiting.cause != (cause := waits(waiting.need, held, slots)):
                waiting.cause = cause
                self._around.changed()

    def _start(self, spec: ReplicaSpec, found: Place, now: float) -> None:
        try:
            self._children[spec.replica] = Child(spec, found, self._around, now)
            _log.info("replica %s of %s started on %s", spec.replica, spec.deployment, ", ".join(found.nodes))
        except (OSError, HpcserveError) as error:
            self._say_unfit(spec, error)
        self._around.changed()

    def _say_unfit(self, spec: ReplicaSpec, error: Exception) -> None:
        _log.warning("replica %s of %s cannot be started: %s", spec.replica, spec.deployment, error)
        lasting = isinstance(error, LASTING)
        self._say_ended(spec, "failed", f"it cannot be started: {error}", "crashed", lasting=lasting)

    def _say_never(self, waiting: _Waiting) -> None:
        """There is no room for it, and never will be; or there would be if no node were lost."""
        why = never(waiting.need, len(self._nodes), self._around.slots)
        if why:
            self._say_ended(waiting.spec, "failed", f"it cannot be started: {why}", "crashed")
            return
        left = len(self.usable_nodes)
        lost = f"it takes {waiting.need}, and its pilot has {left} left" if left else "every node of its pilot is lost"
        self._say_ended(waiting.spec, "failed", f"it cannot be started: {lost}", "node failed")

    def _give_up(self, replica: ReplicaId, why: Stop) -> None:
        """It is not wanted any more, if it waits."""
        waiting = self._waiting.pop(replica, None)
        if waiting is not None:
            self._say_ended(waiting.spec, "exited", f"{why.cause} before there was room for it", why.kind)

    def _give_up_all(self, why: Stop) -> None:
        for replica in list(self._waiting):
            self._give_up(replica, why)

    def _held(self, node: str, need: Need) -> set[int]:
        holders = self._staying if need.nodes == need.slots == 1 else self._children.values()
        return {slot for child in holders if not child.ended for slot in child.place.held(node)}

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
            failed = next((node for node in child.place.nodes if node in nodes), "")
            if failed:
                child.abandon(Stop(f"its node {failed} failed", "node failed"))

    def _mark_lost(self, child: Child) -> None:
        """What its launcher has named; else the one of its nodes of which nothing shows that it still is there."""
        alive = {self._nodes[0]}.union(*(each.place.nodes for each in self._staying if each.started))
        suspects = [node for node in child.place.nodes if node not in alive or len(child.place.nodes) == 1]
        told = named(child.place.nodes, child.lost_nodes)
        # A launcher that names another host alone has not reached that one, whatever it is.
        lost = told or (suspects if len(suspects) == 1 and not child.lost_nodes else [])
        for node in set(lost) - self._lost:
            _log.warning("node %s is lost: nothing will be started there", node)
            self._lost.add(node)
            self._around.changed()

    def _say_ended(
        self, spec: ReplicaSpec, state: str, cause: str, kind: LossKind = "", *, lasting: bool = False
    ) -> None:
        self._stillborn[spec.replica] = ReplicaStatus(
            spec.replica,
            state,
            b"",
            cause=cause,
            deployment=spec.deployment,
            version=spec.version,
            kind=kind,
            lasting=lasting,
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
