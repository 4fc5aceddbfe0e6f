"""The entries of the fleet's books: what is known of a pilot and of a replica, and what an agent says and is told.

No behaviour; :mod:`hpcserve.core.fleet` keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcserve.core.deployments import PilotPhase, ReplicaState
from hpcserve.core.rollout import Version
from hpcserve.types import DeploymentName, PilotId, ReplicaId


@dataclass(frozen=True)
class ReplicaSaid:
    """One replica in an agent's report."""

    replica: ReplicaId
    state: str
    cause: str = ""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class PilotOrders:
    """What an agent is to be told: which replicas to run, to kill at once, to forget, or to end."""

    run: tuple[ReplicaId, ...]
    kill: tuple[ReplicaId, ...]
    forget: tuple[ReplicaId, ...]
    stop: bool


@dataclass(kw_only=True)
class FleetPilot:
    """A pilot job in the books, until the scheduler says that it has ended. ``adopted``: from an earlier controller."""

    pilot: PilotId
    slots: int
    idle_since_s: float
    phase: PilotPhase = "queued"
    reported: bool = False
    adopted: bool = False
    ends_s: float | None = None
    said: tuple[ReplicaSaid, ...] = ()


@dataclass(kw_only=True)
class FleetReplica:
    """A replica in the books.

    ``ready``: it was, at some time. ``crashed``: it ended by itself, so what it was computing is suspect.
    ``unwanted``: it is killed, for no fault of anybody.
    """

    replica: ReplicaId
    deployment: DeploymentName
    version: Version
    pilot: PilotId
    state: ReplicaState = "starting"
    kill: bool = False
    seen: bool = False
    ready: bool = False
    ended: bool = False
    crashed: bool = False
    unwanted: bool = False
    cause: str = ""
