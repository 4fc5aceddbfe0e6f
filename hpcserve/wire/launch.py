"""What the controller hands to an agent, an agent to a replica that it starts, and what the replica says back.

The controller writes one :class:`Enrolment` as a JSON file of mode 0600 for each incarnation of a pilot job, named by
:func:`enrolment_name`; the agent empties it once it is enrolled. Its exit codes: :mod:`hpcserve.wire.exits`.

The agent writes one :class:`ReplicaStart` as a JSON line to the replica's standard input and keeps that
pipe open: its end of file tells the replica that its agent is gone. The replica takes its standard output for
itself and writes one :class:`ReplicaSays` there as a JSON line. What the servable prints goes to standard error, for
the log; so do lines of standard output that are something else. These three streams are all that a launcher has to
carry from one node to another.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hpcserve.errors import VersionMismatch

LAUNCH_VERSION = 2
"""Of :class:`ReplicaStart` and :class:`ReplicaSays`: counts up when one side no longer understands the other."""
GROUP = "HPCSERVE_GROUP"
"""The variable that names a replica of several ranks, for each start another, so that what it leaves can be found."""
NO_TOPOLOGY_FILE = {"HWLOC_XMLFILE": "unavailable"}
"""The variable with which Hydra writes no file of the node's processors for its ranks.

It would be ``/tmp/hydra_hwloc_xmlfile_…``, wherever TMPDIR is, and stay there when Hydra is killed. Each rank looks for
itself then. Seen in MPICH 4.3.
"""
OUTSIDE = "HPCSERVE_OUTSIDE"
"""The variable that tells a rank in a container the mount namespace of who started the container."""


class ContainerRules(msgspec.Struct, frozen=True, kw_only=True):
    """How a site runs containers: the fields of ``[containers]`` in its file, with the same meaning.

    ``host_ipc``: programs in them share memory with those of the node.
    """

    runtime: str = "none"
    command: str = ""
    gpu: str = ""
    binds: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    signature_key: str = ""
    host_ipc: bool = False
    stage_dir: str = ""
    stage_bytes: int = 0
    stage_keep: bool = False


class MpiRules(msgspec.Struct, frozen=True, kw_only=True):
    """How a site starts MPI ranks: the fields of ``[mpi]`` in its file, with the same meaning."""

    pmi: str = "pmi2"
    command: str = "mpiexec"
    options: tuple[str, ...] = ()
    family: str = ""
    binds: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


class StagingRules(msgspec.Struct, frozen=True, kw_only=True):
    """How a site stages results and inputs: the fields of ``[staging]`` in its file, with the same meaning.

    ``directory`` is empty where nothing is staged. ``seen``: where a replica in a container sees a directory of the
    site; what is not named it sees where it is.
    """

    directory: str = ""
    inline_limit_bytes: int = 8 << 20
    https_limit_bytes: int = 256 << 20
    compression: str = "gzip"
    chunk_bytes: int = 1 << 20
    quota_bytes: int = 0
    roots: tuple[str, ...] = ()
    reference_bytes: int = 4 << 30
    seen: dict[str, str] = {}


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a pilot job's agent must know besides the service record.

    ``secret`` is good for one enrolment of this ``incarnation``. ``walltime_s`` counts from the agent's start. Each of
    the job's nodes has ``slots``, of which ``replicas_per_gpu`` share a GPU. The logs of a replica take at most
    ``log_bytes`` below ``log_dir``. ``prologue``: shell lines that run before the interpreters of users' own
    environments. ``bind`` and ``mps`` are of the site file.
    """

    pilot: str
    incarnation: str
    secret: str
    slots: int
    walltime_s: float
    orphan_s: float
    stop_grace_s: float
    log_dir: str
    log_bytes: int
    launcher: str = "process"
    bind: str = "none"
    mps: bool = False
    containers: ContainerRules = ContainerRules()
    mpi: MpiRules = MpiRules()
    replicas_per_gpu: int = 1
    prologue: tuple[str, ...] = ()
    staging: StagingRules = StagingRules()


class ReplicaStart(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a replica must know. ``secret_key`` never stands in its environment or arguments.

    ``collective_grace_s``: so long the ranks of a collective servable may take to return once one of them has failed.

    Which slots of its node it holds stands on its command line: it must know its GPUs before it starts MPI, and this
    line comes to rank 0 alone.

    ``launch`` and ``software`` tell who speaks: a replica runs the files that are there when it starts, and those of an
    agent may have been replaced since it began.
    """

    replica: str
    deployment: str
    version: str
    servable: str
    manifest: str
    record: str
    public_key: bytes
    secret_key: bytes
    outbox_bytes: int
    hang_grace_s: float
    collective_grace_s: float = 5.0
    launch: int = LAUNCH_VERSION
    software: str = ""
    staging: StagingRules = StagingRules()


class ReplicaSays(msgspec.Struct, frozen=True, kw_only=True):
    """``ready``: ``setup`` is done, and the broker knows the replica. ``failed``: it is not, and the replica ends.

    ``phases``: how long each phase of its start took, in seconds; names of :data:`hpcserve.types.PHASES`. ``lasting``:
    the next one would fail in the same way.
    """

    state: Literal["ready", "failed"]
    cause: str = ""
    traceback: str = ""
    phases: dict[str, float] = {}
    lasting: bool = False


def encode_line(message: ReplicaStart | ReplicaSays) -> bytes:
    """The message as one line of JSON."""
    return msgspec.json.encode(message) + b"\n"


class _Speaker(msgspec.Struct, frozen=True):
    """What every version says."""

    launch: int = 0
    software: str = ""


def decode_start(line: bytes, software: str) -> ReplicaStart:
    """The :class:`ReplicaStart` of one line, as ``software``, which this is, understands it.

    Raises:
        VersionMismatch: An agent has written it that speaks otherwise.
        msgspec.MsgspecError: The line is something else.
    """
    agent = msgspec.json.decode(line, type=_Speaker)
    if agent.launch != LAUNCH_VERSION:
        raise VersionMismatch(
            f"the agent is {agent.software or 'an older hpcserve'} (launch version {agent.launch}), and this replica "
            f"is {software} (launch version {LAUNCH_VERSION}): hpcserve was replaced while it ran; take the daemon "
            "down and up again"
        )
    return msgspec.json.decode(line, type=ReplicaStart)


def decode_says(line: bytes) -> ReplicaSays:
    """The :class:`ReplicaSays` of one line.

    Raises:
        msgspec.MsgspecError: The line is something else.
    """
    return msgspec.json.decode(line, type=ReplicaSays)


def enrolment_name(prefix: str, restarts: int) -> str:
    """The file of a pilot's incarnation: the scheduler has begun its job anew ``restarts`` times.

    ``prefix`` is what the agent gets as ``--enrolment``: the path, without what is added here.
    """
    return f"{prefix}.{restarts}.json"


def encode_enrolment(enrolment: Enrolment) -> bytes:
    """The enrolment as the file's content."""
    return msgspec.json.encode(enrolment) + b"\n"


def decode_enrolment(content: bytes) -> Enrolment:
    """The :class:`Enrolment` of a file's content.

    Raises:
        msgspec.MsgspecError: The content is something else.
    """
    return msgspec.json.decode(content, type=Enrolment)
