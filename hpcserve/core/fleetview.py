"""What :mod:`hpcserve.core.deployments` decides on, what is wanted and what there is, and its decisions. No rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hpcserve.core.width import ONE, Width
from hpcserve.types import DeploymentName, PilotId, ReplicaId

PilotPhase = Literal["queued", "running", "suspended", "unknown", "leaving"]
"""``leaving``: it was told to end, or says that it does; it holds its nodes until the scheduler says so."""

ReplicaState = Literal["starting", "ready", "retiring", "retired", "stopping"]
"""``retiring``: it gets no new work; ``retired``: and holds none; ``stopping``: its process is being ended."""
ENDING = ("retiring", "retired", "stopping")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The site's limits. ``slots``: of a new pilot, all its nodes together; ``replicas_per_gpu`` of them share a GPU.

    ``max_queued`` pilots may wait in the queue at once, and ``max_running`` may run; None: as many as there may be.
    ``gpus_by_directive``: lines of the site's own ask for GPUs.
    """

    max_pilots: int
    slots: int
    idle_s: float
    nodes: int = 1
    orphan_s: float = 600.0
    max_queued: int | None = None
    max_running: int | None = None
    gpus_per_node: int = 0
    gpus_by_directive: bool = False
    replicas_per_gpu: int = 1

    @property
    def node_slots(self) -> int:
        """The slots of one node."""
        return max(1, self.slots // self.nodes)

    @property
    def most_pilots(self) -> int:
        """How many pilots may last at a time: what cannot run is not submitted either."""
        return self.max_pilots if self.max_running is None else min(self.max_pilots, self.max_running)

    @property
    def may_grow(self) -> bool:
        """Whether a full pilot can begin while the small one still runs in whose place it comes."""
        return self.max_running is None or self.max_running > self.max_pilots


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A deployment that is to be served. No replica of it is started before ``not_before_s``, or if it failed.

    ``waits_since_s``: since when it has none; infinite where it has some.
    """

    name: DeploymentName
    version: str
    replicas: int
    not_before_s: float = 0.0
    failed: bool = False
    waits_since_s: float = math.inf
    width: Width = ONE


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """A pilot job that has not ended.

    ``reported``: its agent has been there. ``away_since_s``: since when it is not any more. ``idle_since_s``: it last
    had a replica. ``lead_s`` before it ends it is closing, ``drain_s`` before that its replicas get no more work.
    ``size``: its slots were all its nodes there.
    """

    pilot: PilotId
    phase: PilotPhase
    slots: int
    size: int
    reported: bool
    idle_since_s: float
    ends_s: float | None = None
    away_since_s: float | None = None
    lead_s: float = 0.0
    drain_s: float = 0.0

    def is_closing(self, now: float) -> bool:
        """Whether its end is so near that others take over."""
        return self.ends_s is not None and self.ends_s - now <= max(self.lead_s, self.drain_s)

    def is_draining(self, now: float) -> bool:
        """Whether its end is so near that nothing new is begun."""
        return self.ends_s is not None and self.ends_s - now <= self.drain_s

    def is_replaced(self, now: float) -> bool:
        """Whether another may be submitted in its place while it still lives."""
        return self.away_since_s is not None or self.is_closing(now)


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A replica whose process may exist, on ``hosts`` as far as is known. ``resting``: it gets no new work anyway.

    ``slots``: those that it holds of each host. ``waits``: its agent has found no room for it.
    """

    replica: ReplicaId
    deployment: DeploymentName
    version: str
    pilot: PilotId
    state: ReplicaState
    resting: bool = False
    width: Width = ONE
    hosts: tuple[str, ...] = ()
    slots: tuple[tuple[int, ...], ...] = ()
    waits: bool = False


@dataclass(frozen=True, kw_only=True)
class View:
    """All that the decision depends on. New ids are ``seed`` and numbers from ``next_number`` on.

    ``submit_at_most``: so many pilots may be submitted now, where there is a place for more; None: all that there is.
    """

    policy: Policy
    wanted: tuple[Wanted, ...]
    pilots: tuple[Pilot, ...]
    replicas: tuple[Replica, ...]
    seed: str
    next_number: int
    submit_not_before_s: float = 0.0
    submit_at_most: int | None = None


@dataclass(frozen=True)
class SubmitPilot:
    """Submit a pilot job under this new id.

    ``lacking``: for replicas of so many slots, or for some of them. ``full``: with all the nodes that it may have.
    ``nodes``: so many hold all those replicas; with fewer than ``least_nodes`` it would be of no use to one of them.
    """

    pilot: PilotId
    lacking: int = field(default=0, compare=False)
    full: bool = field(default=False, compare=False)
    nodes: int = field(default=1, compare=False)
    least_nodes: int = field(default=1, compare=False)


@dataclass(frozen=True)
class CancelPilot:
    """End a pilot job that runs nothing."""

    pilot: PilotId


@dataclass(frozen=True)
class StartReplica:
    """Have the agent of ``pilot`` start a replica under this new id."""

    replica: ReplicaId
    deployment: DeploymentName
    version: str
    pilot: PilotId


@dataclass(frozen=True)
class RetireReplica:
    """Give a replica no new work."""

    replica: ReplicaId


@dataclass(frozen=True)
class StopReplica:
    """Have its agent end a replica that holds no work."""

    replica: ReplicaId


Change = SubmitPilot | CancelPilot | StartReplica | RetireReplica | StopReplica
