"""What agents and the controller say to each other, as msgspec structs; the broker relays it.

Both are level-triggered: a report says everything that an agent knows, and orders everything that it is to run. Agents
and replicas share the broker's socket, so what comes in there is one of either's messages.
"""

from __future__ import annotations

from hpcserve.types import DeploymentName, LossKind, PilotId, ReplicaId
from hpcserve.wire.messages import (
    Credit,
    Devices,
    Inventory,
    Items,
    Learned,
    Message,
    OutOfMemory,
    Refused,
    Result,
    Runs,
    WhoAreYou,
)


class ReplicaSpec(Message, frozen=True):
    """One replica that an agent is to run.

    ``servable`` is the directory with its files, ``manifest`` the parsed manifest as JSON.
    """

    replica: ReplicaId
    deployment: DeploymentName
    version: str
    servable: str
    manifest: str
    setup_timeout_s: float
    outbox_bytes: int
    hang_grace_s: float = 10.0


class ReplicaStatus(Message, frozen=True):
    """What became of one replica. ``state``: starting, ready, failed (its setup), exited.

    Of a replica that failed or exited no process is left. ``cause`` says why in words, ``kind`` in one word, and
    ``evidence`` holds the lines of its log that show it; of one that starts or is ready, ``cause`` says what it waits
    for, or does without. ``host`` is the node that runs it or ran it. ``phases``: once it is ready, how long each phase
    of its start took, in seconds; names of :data:`hpcserve.types.PHASES`. ``nodes``: all that hold ranks of it; empty
    while it waits for room on them. ``slots``: those that it holds of each. ``lasting``: of one that failed, that the
    next one would fail in the same way there.
    """

    replica: ReplicaId
    state: str
    public_key: bytes
    pid: int | None = None
    exit_code: int | None = None
    cause: str = ""
    traceback: str = ""
    deployment: DeploymentName = DeploymentName("")
    version: str = ""
    kind: LossKind = ""
    evidence: str = ""
    host: str = ""
    phases: dict[str, float] = {}  # noqa: RUF012 (msgspec copies it)
    nodes: tuple[str, ...] = ()
    slots: tuple[tuple[int, ...], ...] = ()
    lasting: bool = False


class Report(Message, frozen=True, tag="report"):
    """Everything that an agent knows. Sent whole: on connecting, after each change, when asked.

    ``slots`` counts those of all nodes but the lost ones. ``leaving`` says why the agent stops everything and ends; a
    last report follows when all have ended. ``lost_nodes``: nothing can be started there any more; those
    that only the orders name are not among them. ``age_s``: how old the job is, as far as the agent can see;
    ``agent_s``: how old it was when the agent was first let in.
    """

    pilot: PilotId
    incarnation: str
    host: str
    pid: int
    slots: int
    walltime_left_s: float
    replicas: tuple[ReplicaStatus, ...]
    leaving: str = ""
    lost_nodes: tuple[str, ...] = ()
    age_s: float = 0.0
    agent_s: float = 0.0


class Orders(Message, frozen=True, tag="orders"):
    """Everything that an agent is to run. A replica that is not listed is stopped; ``kill`` at once.

    ``forget`` lists ended replicas that the controller has written down. ``stop`` ends the pilot.
    ``lost_nodes``: they are taken for lost; what runs there is ended, and nothing is started there while they are
    listed.
    """

    pilot: PilotId
    incarnation: str
    replicas: tuple[ReplicaSpec, ...] = ()
    kill: tuple[ReplicaId, ...] = ()
    forget: tuple[ReplicaId, ...] = ()
    stop: bool = False
    lost_nodes: tuple[str, ...] = ()


FromPilot = Result | Items | Inventory | Credit | Learned | OutOfMemory | Devices | Runs | Report
ToAgent = Orders | WhoAreYou | Refused
