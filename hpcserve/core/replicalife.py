"""The life of the replicas: what their agents and the broker said of them, and why each one is gone.

A replica connects between its calls: after a brief fault of the network it cannot be back before its call is over. So
that it is away says nothing while its own agent, on the same host, is connected and has it in its sight.

The cause of a loss may be open for a while: of a replica that became unreachable its agent tells it, or the end of its
pilot. What a loss or a failure counts for is decided in :mod:`hpcserve.core.blame`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hpcserve.core.absences import AGAIN_S
from hpcserve.core.blame import Blame
from hpcserve.core.fleetbook import (
    ENDED_STATES,
    LOST_WITH_ITS_NODE,
    Action,
    FleetPilot,
    FleetReplica,
    ForgetReplica,
    ReplicaLost,
    ReplicaSaid,
)
from hpcserve.core.fleetview import Policy
from hpcserve.core.losses import Loss
from hpcserve.core.rollout import PilotRestarts
from hpcserve.core.roster import Roster
from hpcserve.core.succession import Succession
from hpcserve.types import LossKind, ReplicaId

MISSED_S = 2 * AGAIN_S
"""The broker says of who is away that it is, so often that after this time it may be taken to be back."""


TRIED_AGAIN_S = 600.0
"""So long nothing is started on a node that was taken for lost: by then Slurm has seen whether it is.

Source: slurm.conf(5), SlurmdTimeout, 300 s by default.
"""


class ReplicaLife:
    """Keeps what is known of the replicas of a roster.

    Args:
        roster: All deployments, pilots and replicas.
        blame: Where failures and losses count.
        policy: The site's limits.
        pilot_restarts: Told that a pilot works, once a replica in it is ready.
        succession: Told how long replicas take to be ready.
    """

    def __init__(
        self, roster: Roster, blame: Blame, *, policy: Policy, pilot_restarts: PilotRestarts, succession: Succession
    ) -> None:
        self._roster = roster
        self._blame = blame
        self._policy = policy
        self._pilot_restarts = pilot_restarts
        self._succession = succession
        self._fallen: list[ReplicaId] = []
        self._told: list[ReplicaId] = []

    def hear(self, pilot: FleetPilot, now: float) -> Iterable[Action]:
        """The agent of a pilot has said what became of its replicas."""
        said = {replica.replica: replica for replica in pilot.said}
        for replica in self._roster.within(pilot.pilot):
            words = said.get(replica.replica)
            if words is None:
                # Either it ended and the agent was told to forget it, or it was taken back before it was begun.
                if replica.seen or replica.ended or replica.state == "stopping" or replica.kill:
                    yield self._forget(replica)
                continue
            replica.seen = True
            replica.host = words.host
            replica.nodes = words.nodes or ((words.host,) if words.host else ())
            replica.slots = words.slots
            replica.waits = words.state == "starting" and not replica.nodes
            if words.state in ENDED_STATES and not replica.ended:
                yield from self._ended(replica, words, pilot, now)
            elif words.state == "ready" and replica.state == "starting":
                self._ready(replica, pilot, now)

    def _forget(self, replica: FleetReplica) -> ForgetReplica:
        del self._roster.replicas[replica.replica]
        return ForgetReplica(replica.replica)

    def _ready(self, replica: FleetReplica, pilot: FleetPilot, now: float) -> None:
        replica.state = "ready"
        replica.ready = True
        if not pilot.proven:
            pilot.proven = True
            self._pilot_restarts.succeeded(now)
        if replica.ordered_s is not None:
            self._succession.set_up(now - replica.ordered_s)
        self._blame.replica_works(replica, now)

    def _ended(self, replica: FleetReplica, words: ReplicaSaid, pilot: FleetPilot, now: float) -> Iterable[Action]:
        asked = (pilot.asked or replica.state in ("stopping", "retired")) and not replica.kill
        lost = words.kind in LOST_WITH_ITS_NODE
        replica.ended = True
        replica.crashed = not asked and not replica.unwanted and not lost
        replica.cause = replica.cause or words.cause
        replica.lasting = words.lasting
        if asked or replica.unwanted:
            return
        if lost and pilot.phase == "leaving":
            pilot.unexplained.append(_loss(replica, words.kind, replica.cause, drained=words.drained))
            return
        loss = _loss(replica, words.kind or "crashed", replica.cause, told=True)
        yield ReplicaLost(loss)
        if replica.state == "retiring":
            return
        if lost:
            self._blame.replica_lost(loss)
        else:
            yield from self._blame.replica_failed(replica, words.traceback, now)

    def explain(self, pilot: FleetPilot) -> Iterable[Action]:
        """Says why replicas were unreachable, when the pilot's agent says that they have ended, as it was told."""
        said = {each.replica: each for each in pilot.said}
        alive = {each.replica for each in pilot.said if each.state not in ENDED_STATES}
        open_ones = [loss for loss in pilot.unexplained if not loss.kind and loss.replica not in alive]
        pilot.unexplained = [loss for loss in pilot.unexplained if loss not in open_ones]
        for loss in open_ones:
            words = said.get(loss.replica)
            if words is not None and words.kind == "node failed":
                explained = replace(loss, kind=words.kind, cause=words.cause, told=True)
            else:
                explained = replace(loss, kind="unreachable")
            self._blame.replica_lost(explained)
            yield ReplicaLost(explained)

    def lose(self, pilot: FleetPilot, kind: LossKind, cause: str, now: float) -> Iterable[Action]:
        """Those of a pilot that is no more; what was unexplained so far is explained by its end."""
        if pilot.asked and kind == "cancelled":  # by us, who had given it up: that explains nothing
            losses = [loss if loss.kind else replace(loss, kind="unreachable") for loss in pilot.unexplained]
        else:
            # What the agent saw is better than an end of which the scheduler can say no more than that it was one.
            losses = [
                loss if loss.kind and kind == "crashed" else replace(loss, kind=kind, cause=cause)
                for loss in pilot.unexplained
            ]
        pilot.unexplained.clear()
        replicas = self._roster.within(pilot.pilot)
        blamed = _blamed(pilot, replicas) if kind == "out of memory" else []
        for replica in replicas:
            if replica in blamed:
                yield from self._took_the_memory(replica, cause, now)
                continue
            if not (replica.ended or pilot.asked or replica.state in ("stopping", "retired")):
                losses.append(_loss(replica, kind, cause))
            yield self._forget(replica)
        for loss in losses:
            self._blame.replica_lost(loss)
            yield ReplicaLost(loss)

    def _took_the_memory(self, replica: FleetReplica, cause: str, now: float) -> Iterable[Action]:
        """A replica has ended, and its pilot with it, for which it or what it ran is to blame."""
        replica.ended = replica.crashed = True
        replica.cause = replica.cause or f"out of memory: {cause}"
        self._fallen.append(replica.replica)
        yield ReplicaLost(_loss(replica, "out of memory", cause))
        yield from self._blame.replica_failed(replica, "", now)

    def bury(self) -> Iterable[ForgetReplica]:
        """Forgets those that fell with their pilots, once the broker was told how: between two calls it is."""
        told, self._told, self._fallen = self._told, self._fallen, []
        yield from (self._forget(self._roster.replicas[each]) for each in told)

    def unreachable(self, replica: ReplicaId, cause: str, now: float, *, for_s: float = 0.0) -> bool:
        """A replica cannot be reached: others do its work, and should it come back it is ended.

        Why that is, the end of its pilot will tell, or its agent. A node of several of which no replica can be reached
        any more is taken for lost, for a while; but never the agent's own, and none while the agent is away as well:
        then it may be the network of all. If its agent sees that it lives, this is only noted: it may be in a call. But
        not for longer than ``orphan_s``: its process may be stopped.

        Returns:
            Whether that is news: it was not lost, or was not missed of late.
        """
        known = self._roster.replicas.get(replica)
        if known is None or known.ended:
            return False
        pilot = self._roster.pilots.get(known.pilot)
        if pilot is not None and for_s < self._policy.orphan_s and _is_in_sight(pilot, known):
            is_news = not _is_missed(known, now)
            known.missed, known.missed_s = cause, now
            return is_news
        known.ended = True
        known.cause = known.cause or cause
        if pilot is None:
            return True
        pilot.unexplained.append(_loss(known, "", cause))
        is_alone = pilot.away_since_s is None and bool(known.host) and not _is_near(pilot, known)
        others = any(each.host == known.host and not each.ended for each in self._roster.within(known.pilot))
        if is_alone and not others and self._policy.nodes > 1:
            pilot.missed_nodes[known.host] = now + TRIED_AGAIN_S
        return True

    def take_back(self, pilot: FleetPilot, now: float) -> None:
        """The nodes that were taken for lost long ago are tried again: whether they are, srun will say."""
        pilot.missed_nodes = {node: until_s for node, until_s in pilot.missed_nodes.items() if until_s > now}

    def out_of_sight(self, pilot: FleetPilot, now: float) -> None:
        """The agent of a pilot is away: those of its replicas that are missed at present are lost with it.

        That some of its nodes were missed before it proves nothing any more.
        """
        pilot.missed_nodes.clear()
        for replica in self._roster.within(pilot.pilot):
            if _is_missed(replica, now):
                self.unreachable(replica.replica, replica.missed, now)

    def idle(self, replica: ReplicaId) -> None:
        """The broker says that a retiring replica holds nothing any more."""
        known = self._roster.replicas.get(replica)
        if known is not None and known.state == "retiring":
            known.state = "retired"

    def hung(self, replica: ReplicaId, cause: str) -> None:
        """A replica is to be killed, and replaced at once."""
        known = self._roster.replicas.get(replica)
        if known is not None and not known.ended and not known.kill:
            known.kill = True
            known.crashed = True
            known.cause = cause

    def unwanted(self, replica: ReplicaId) -> bool:
        """A replica runs what nobody waits for: it is to be killed, and replaced at once. False: it is about to end."""
        known = self._roster.replicas.get(replica)
        if known is None or known.ended or known.kill:
            return False
        known.kill = known.unwanted = True
        return True


def _blamed(pilot: FleetPilot, replicas: list[FleetReplica]) -> list[FleetReplica]:
    """Those whose fault it may be that a pilot that had worked ran out of memory: those that were being set up, or all.

    Of a pilot that never worked the site file asks for too little memory.
    """
    if not pilot.proven or pilot.asked:
        return []
    alive = [each for each in replicas if not each.ended]
    return [each for each in alive if each.state == "starting"] or [each for each in alive if each.state == "ready"]


def _is_in_sight(pilot: FleetPilot, replica: FleetReplica) -> bool:
    """Whether the agent of a pilot is there, and has a replica's process on its own host, where it lives."""
    is_there = pilot.reported and pilot.away_since_s is None
    alive = any(each.replica == replica.replica and each.state not in ENDED_STATES for each in pilot.said)
    return is_there and _is_near(pilot, replica) and alive


def _is_missed(replica: FleetReplica, now: float) -> bool:
    """Whether the broker misses a replica that its agent sees: if it did no more, it would not have said so again."""
    return bool(replica.missed) and now - replica.missed_s <= MISSED_S


def _is_near(pilot: FleetPilot, replica: FleetReplica) -> bool:
    """Whether a replica runs on the host of its pilot's agent."""
    return bool(pilot.host) and _short(pilot.host) == _short(replica.host)


def _short(host: str) -> str:
    """Schedulers name a node by the first part of its name; some nodes call themselves by all of it."""
    return host.partition(".")[0]


def _loss(replica: FleetReplica, kind: LossKind, cause: str, *, told: bool = False, drained: bool = False) -> Loss:
    return Loss(
        replica=replica.replica,
        deployment=replica.deployment,
        pilot=replica.pilot,
        kind=kind,
        cause=cause,
        told=told,
        drained=drained,
    )
