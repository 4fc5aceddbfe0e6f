"""The entries of the fleet's books: what is known of a pilot and of a replica, and what an agent says and is told.

Also what the controller is told besides the changes of :mod:`hpcserve.core.deployments`. No decisions;
:mod:`hpcserve.core.fleet` keeps the books.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpcserve.core.fleetview import Change, PilotPhase, ReplicaState
from hpcserve.core.losses import Loss
from hpcserve.core.rollout import Version
from hpcserve.types import DeploymentName, LossKind, PilotId, ReplicaId

ENDED_STATES = ("failed", "exited")
"""The states of a report that say that a replica's process is gone."""
LOST_WITH_ITS_NODE: tuple[LossKind, ...] = (
    "walltime",
    "preempted",
    "requeued",
    "node failed",
    "cancelled",
    "unreachable",
)
"""Ends for which neither the servable nor what it computed is to blame."""


@dataclass(frozen=True)
class ForgetReplica:
    """Nothing will be heard of this replica any more."""

    replica: ReplicaId


@dataclass(frozen=True)
class FailDeployment:
    """A deployment's replicas cannot be started."""

    deployment: DeploymentName
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class ReplicaLost:
    """A replica ended unasked, and this is why."""

    loss: Loss


Action = Change | ForgetReplica | FailDeployment | ReplicaLost


@dataclass(frozen=True)
class ReplicaSaid:
    """One replica in an agent's report. ``kind`` is that of its end, ``host`` the node that it runs on.

    ``nodes``: all the nodes of one of several ranks, once it has some. ``slots``: those that it holds of each.
    ``lasting``: it failed, and the next one would fail in the same way there. ``drained``: its agent ended it, and it
    has finished what it ran.
    """

    replica: ReplicaId
    state: str
    cause: str = ""
    traceback: str = ""
    kind: LossKind = ""
    host: str = ""
    nodes: tuple[str, ...] = ()
    slots: tuple[tuple[int, ...], ...] = ()
    lasting: bool = False
    drained: bool = False


@dataclass(frozen=True, kw_only=True)
class PilotOrders:
    """What an agent is to be told: which replicas to run, to kill at once, to forget, or to end.

    On ``lost_nodes`` it starts nothing more.
    """

    run: tuple[ReplicaId, ...]
    kill: tuple[ReplicaId, ...]
    forget: tuple[ReplicaId, ...]
    stop: bool
    lost_nodes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class FleetPilot:
    """A pilot job in the books, until the scheduler says that it has ended.

    Attributes:
        submitted_s: When it was submitted; None: by an earlier controller, or it waits for the second time.
        reported: Its agent has been there.
        proven: A replica in it has been ready.
        adopted: It is from an earlier controller.
        host: The node that its agent runs on.
        asked: It was asked to end; otherwise, if it is leaving, its agent has a reason of its own.
        away_since_s: Since when its agent is not reachable.
        ends_s: When its walltime is over.
        full_slots: So many slots it has while all its nodes are there.
        lacking: For replicas of so many slots, or some of them, it was submitted.
        needs_nodes: So many nodes hold all of these.
        least_nodes: With fewer nodes it would be of no use to one of these.
        full: It was to have all the nodes that it may.
        walltime_s: So long it may run; None: as long as any.
        lead_s: So long before that others began to take over; 0 while none has.
        waits_for: Why it has not begun, or is of no use yet, in words.
        starts_s: When it will, on our clock, as the scheduler guesses; None: it does not.
        said: What its agent reported last.
        lost_nodes: The nodes of it that are gone, as its agent says.
        missed_nodes: Those of which no replica could be reached, until when nothing is started there.
        unexplained: The losses whose cause its end will tell.
    """

    pilot: PilotId
    slots: int
    idle_since_s: float
    full_slots: int = 0
    lacking: int = 0
    needs_nodes: int = 1
    least_nodes: int = 1
    full: bool = False
    walltime_s: float | None = None
    submitted_s: float | None = None
    phase: PilotPhase = "queued"
    reported: bool = False
    proven: bool = False
    adopted: bool = False
    asked: bool = False
    host: str = ""
    away_since_s: float | None = None
    ends_s: float | None = None
    lead_s: float = 0.0
    waits_for: str = ""
    starts_s: float | None = None
    said: tuple[ReplicaSaid, ...] = ()
    lost_nodes: tuple[str, ...] = ()
    missed_nodes: dict[str, float] = field(default_factory=dict)
    unexplained: list[Loss] = field(default_factory=list)

    @property
    def all_lost_nodes(self) -> tuple[str, ...]:
        """The nodes where nothing is to be started."""
        return tuple(sorted({*self.lost_nodes, *self.missed_nodes}))


@dataclass(kw_only=True)
class FleetReplica:
    """A replica in the books, ordered at ``ordered_s`` (None: by an earlier controller).

    ``ready``: it was, at some time. ``crashed``: it ended by itself, so what it was computing is suspect.
    ``unwanted``: it is killed, for no fault of anybody. ``missed``: that the broker missed it, in words, and at
    ``missed_s`` for the last time, while its agent saw that it lives. ``nodes``: those that it is on, as far as is
    known, and ``slots`` those of each; ``waits``: on none, as its agent says that there is no room for it. ``lasting``:
    it failed, and the next one would fail in the same way there.
    """

    replica: ReplicaId
    deployment: DeploymentName
    version: Version
    pilot: PilotId
    ordered_s: float | None = None
    host: str = ""
    nodes: tuple[str, ...] = ()
    slots: tuple[tuple[int, ...], ...] = ()
    waits: bool = False
    state: ReplicaState = "starting"
    kill: bool = False
    seen: bool = False
    ready: bool = False
    ended: bool = False
    crashed: bool = False
    missed: str = ""
    missed_s: float = 0.0
    unwanted: bool = False
    lasting: bool = False
    cause: str = ""
