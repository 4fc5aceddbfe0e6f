"""What a site file may say: one frozen :class:`Site`, whose tables are :class:`Section` s, with defaults and limits.

Where the values come from is decided in :mod:`hpcserve.config.loading`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from hpcserve.config.access import Access
from hpcserve.config.environment import runtime_dir, stage_copies
from hpcserve.config.globus import Globus
from hpcserve.config.section import GIB, MIB, Seconds, Section, SizeBytes
from hpcserve.config.staging import Staging
from hpcserve.types import ENROLMENT_WAIT_S

MOST_POLL_MAX_S = ENROLMENT_WAIT_S / 2
"""One poll may go without an answer before a requeued pilot's agent gives up."""
LAST_PORT = 65535
Port = Annotated[int, msgspec.Meta(ge=0, le=LAST_PORT)]

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (nothing is written there)
RETRY_S = 2.0
"""An agent or a replica that has lost the daemon pauses so long at most before it looks for it again."""
OF_LAUNCHERS = ("PMI_*", "PMIX_*", "OMPI_*", "SLURM_*", "MPI*", "PALS_*", "FI_*", "UCX_*", "NCCL_*")
"""By these launchers tell ranks who they are, and sites tell networks' libraries how to behave."""
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_BIND = re.compile(r"/[^:]*(:/[^:]*(:(ro|rw))?)?")
_PATTERN = re.compile(r"[A-Za-z_]\w*\*?", re.ASCII)
_PMI = re.compile(r"[a-z]\w*", re.ASCII)
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


def _too_short(field: str, least_s: float, value_s: float, consequence: str) -> str:
    why = f"{consequence} before they could come back from a restart of the daemon"
    return f"{field}: expected ≥ {least_s:g}, got {value_s:g}: {why}"


def _wanted_range(text: str, least: int) -> str:
    """What a range of ports should be, as far as this is not; empty if it will do."""
    found = _RANGE.fullmatch(text)
    if not found:
        return "FIRST-LAST, such as 40000-40100"
    first, last = int(found[1]), int(found[2])
    if not (0 < first <= LAST_PORT and 0 < last <= LAST_PORT):
        return f"FIRST-LAST of ports from 1 to {LAST_PORT}"
    if first > last:
        return "FIRST-LAST with the lower port first"
    return f"FIRST-LAST of at least {least} ports" if last - first + 1 < least else ""


class Network(Section, frozen=True):
    """``[network]``: where the daemon listens. Port 0 is the first free one of ``port_range``, or of all ports.

    With ``unix_sockets`` the owner's peers on the daemon's own host need no TCP for their data.
    """

    host: str = "127.0.0.1"
    admission_port: Port = 0
    front_port: Port = 0
    back_port: Port = 0
    port_range: str = ""
    unix_sockets: bool = True

    def __post_init__(self) -> None:
        # The address stands in the service record, for others to connect to.
        if self.host in ("0.0.0.0", "::", "*"):  # noqa: S104 (refused)
            raise ValueError(f"host: expected the address or name of one interface, got {self.host!r}, which is all")
        any_ones = (self.admission_port, self.front_port, self.back_port).count(0)
        wanted = _wanted_range(self.port_range, any_ones) if self.port_range else ""
        if wanted:
            raise ValueError(f"port_range: expected {wanted}, got {self.port_range!r}")

    @property
    def any_port(self) -> tuple[int, ...]:
        """What to try, in this order, for a socket whose port is 0; 0 is any free port."""
        if not self.port_range:
            return (0,)
        found = _RANGE.fullmatch(self.port_range)
        first, last = (int(found[1]), int(found[2])) if found else (0, 0)
        return tuple(range(first, last + 1)) if first > 0 and last <= LAST_PORT else ()

    def ports(self, port: int) -> tuple[int, ...]:
        """What to try, in this order, for a socket whose port in the site file is ``port``."""
        return (port,) if port else self.any_port


class Scheduler(Section, frozen=True):
    """``[scheduler]``: which batch scheduler, how it is spoken to, and how often it is asked.

    ``transport`` is for Slurm alone. Polls are ``poll_s`` apart, and up to ``poll_max_s`` while they bring no news.
    A command that has not answered after ``timeout_s`` is given up. ``submit_burst`` pilots are submitted at once, more
    of them so many a minute. Site ``local`` has neither limit.
    """

    kind: str = "local"
    transport: Literal["auto", "pyslurm", "commands"] = "auto"
    poll_s: Seconds = 1.0
    poll_max_s: Seconds = 120.0
    timeout_s: Seconds = 30.0
    submit_per_min: Annotated[float, msgspec.Meta(gt=0)] = 12.0
    submit_burst: Annotated[int, msgspec.Meta(ge=1)] = 8

    def __post_init__(self) -> None:
        of_requeues = (
            f"only a poll tells that a pilot was requeued, and its agent waits {ENROLMENT_WAIT_S:g} s to be let in"
        )
        if self.kind != "local" and self.poll_s > MOST_POLL_MAX_S:
            raise ValueError(f"poll_s: expected ≤ {MOST_POLL_MAX_S:g}, got {self.poll_s:g}: {of_requeues}; lower it")
        if self.poll_max_s < self.poll_s:
            raise ValueError(f"poll_max_s: expected ≥ {self.poll_s:g}, which is poll_s, got {self.poll_max_s:g}")
        if self.kind != "local" and self.poll_max_s > MOST_POLL_MAX_S:
            raise ValueError(
                f"poll_max_s: expected ≤ {MOST_POLL_MAX_S:g}, got {self.poll_max_s:g}: {of_requeues}; lower it"
            )


class Pilots(Section, frozen=True):
    """``[pilots]``: the pilot jobs, and what each asks the batch scheduler for.

    ``slots`` is the number of ranks that one of its ``nodes`` holds, and so of replicas of one rank;
    ``replicas_per_gpu`` slots share a GPU. ``keep_ended``: of so many pilots and replicas
    that have ended, the last ones, something is kept. ``directives`` are further lines of the job script for the
    scheduler, ``setup`` shell commands that run before the agent; ``script`` is a template in place of the shipped one.
    With ``bind = "numa"`` a replica computes on processors that are near its slot's GPUs. ``mps``: those that share a
    GPU do so by NVIDIA's Multi-Process Service.
    A job is warned ``warn_s`` before its end, by Slurm or by a timer. ``queue_wait_s`` is the wait in the queue
    that is expected until one was measured.

    Pilots may be smaller and shorter than ``nodes`` and ``walltime_s``, where that starts sooner or is enough, down to
    ``min_nodes`` and ``min_walltime_s``; 0: they may not.
    """

    walltime_s: Seconds = 24 * 3600.0
    min_walltime_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    nodes: Annotated[int, msgspec.Meta(ge=1)] = 1
    min_nodes: Annotated[int, msgspec.Meta(ge=0)] = 0
    slots: Annotated[int, msgspec.Meta(ge=1)] = 16
    max_pilots: Annotated[int, msgspec.Meta(ge=1)] = 4
    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    gpus_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0
    replicas_per_gpu: Annotated[int, msgspec.Meta(ge=1)] = 1
    cpus_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory_per_node_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    exclusive: bool = False
    requeue: bool = True
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    script: str = ""
    python: str = ""
    warn_s: Seconds = 120.0
    queue_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    idle_s: Seconds = 300.0
    orphan_s: Seconds = 600.0
    launcher: str = "process"
    bind: Literal["none", "numa"] = "none"
    mps: bool = False
    setup_timeout_s: Seconds = 300.0
    stop_grace_s: Seconds = 10.0
    log_bytes: SizeBytes = 8 * MIB
    keep_ended: Annotated[int, msgspec.Meta(ge=1)] = 100

    def __post_init__(self) -> None:
        if self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes: expected ≤ nodes, {self.nodes}, got {self.min_nodes}")
        if self.min_walltime_s > self.walltime_s:
            raise ValueError(f"min_walltime_s: expected ≤ walltime_s, {self.walltime_s:g}, got {self.min_walltime_s:g}")
        if self.nodes > 1 and self.launcher == "process":
            raise ValueError(
                "launcher: expected 'srun' or 'mpiexec' for several nodes, got 'process', which starts on one only"
            )
        if self.replicas_per_gpu > 1 and self.slots != self.gpus_per_node * self.replicas_per_gpu:
            expected = f"gpus_per_node × replicas_per_gpu, {self.gpus_per_node} × {self.replicas_per_gpu}"
            raise ValueError(f"slots: expected {expected}, so that all share the GPUs evenly, got {self.slots}")
        if self.orphan_s < 2 * RETRY_S:  # one pause of the agent, and as long for the daemon to come back
            raise ValueError(_too_short("orphan_s", 2 * RETRY_S, self.orphan_s, "agents would end their pilots"))


class Queue(Section, frozen=True):
    """``[queues.NAME]``: what a partition or a QOS allows. 0: no limit, or none that is known.

    ``max_queued`` and ``max_running`` are numbers of one user's jobs. ``preempt``: jobs in it may be ended for others.
    """

    min_walltime_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_walltime_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    min_nodes: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_nodes: Annotated[int, msgspec.Meta(ge=0)] = 0
    gpus_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_queued: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_running: Annotated[int, msgspec.Meta(ge=0)] = 0
    preempt: bool = False

    def __post_init__(self) -> None:
        if self.max_nodes and self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes: expected ≤ max_nodes, {self.max_nodes}, got {self.min_nodes}")
        if self.max_walltime_s and self.min_walltime_s > self.max_walltime_s:
            expected = f"≤ max_walltime_s, {self.max_walltime_s:g}"
            raise ValueError(f"min_walltime_s: expected {expected}, got {self.min_walltime_s:g}")


class Daemon(Section, frozen=True):
    """``[daemon]``: where the daemon runs, and what a job of its own asks the batch scheduler for.

    ``placement = "job"``: it runs in a job on one node. ``warn_s`` before the end of that job it submits the next one.
    ``python``, ``setup`` and ``script`` are those of ``[pilots]``.
    """

    placement: Literal["login", "job"] = "login"
    walltime_s: Seconds = 24 * 3600.0
    warn_s: Seconds = 120.0
    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    cpus_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory_per_node_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    directives: tuple[str, ...] = ()


class Environments(Section, frozen=True):
    """``[environments]``: servables in interpreters of their own, a virtual environment's, conda's or a module's.

    ``prologue``: shell commands that run before such an interpreter, where a servable is published and in pilots.
    """

    prologue: tuple[str, ...] = ()


class Containers(Section, frozen=True):
    """``[containers]``: how servables run that bring an image along.

    ``command`` is the runtime's, if it is not called as its name says. ``binds`` (``/SOURCE[:/TARGET[:ro|rw]]``) are
    seen in all containers; so are the variables that ``environment`` names. With ``signature_key`` only images
    run that are signed by it.

    ``stage_dir`` is a directory of each node, in which images are copied before replicas start from them; empty: they
    run from where they lie. The copies of a node take at most ``stage_bytes``; with ``stage_keep`` they are there for
    later pilots too.

    ``trust_publishers``: in mode ``service``, containers that are a weaker wall are allowed: those of several ranks,
    and those that share GPUs by MPS.
    """

    runtime: Literal["none", "apptainer", "podman-hpc"] = "none"
    command: str = ""
    gpu: Literal["", "nv", "rocm"] = ""
    binds: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    signature_key: str = ""
    stage_dir: str = ""
    stage_bytes: SizeBytes = 64 * GIB
    stage_keep: bool = False
    trust_publishers: bool = False

    def __post_init__(self) -> None:
        for name in self.environment:
            if not _VARIABLE_NAME.fullmatch(name):
                raise ValueError(f"environment: expected names of variables, got {name!r}")
        _check_binds(self.binds)
        if self.signature_key and not self.signature_key.startswith("/"):
            raise ValueError(f"signature_key: expected the whole path of a public key, got {self.signature_key!r}")
        if self.stage_dir and not self.stage_dir.startswith("/"):
            raise ValueError(f"stage_dir: expected the whole path of a directory of each node, got {self.stage_dir!r}")


class Mpi(Section, frozen=True):
    """``[mpi]``: how the ranks of a replica that has several are started, and what their containers see.

    ``pmi`` is what srun calls it by ``--mpi``. ``command`` and its ``options`` are for launchers ``mpiexec`` and
    ``process``. Ranks in containers see ``binds`` too (``/SOURCE[:/TARGET[:ro|rw]]``), and the variables that match
    ``environment``: names, the last character of which may be a ``*``.
    """

    pmi: str = "pmi2"
    command: str = "mpiexec"
    options: tuple[str, ...] = ()
    family: Literal["", "mpich", "openmpi"] = ""
    binds: tuple[str, ...] = ()
    environment: tuple[str, ...] = OF_LAUNCHERS

    def __post_init__(self) -> None:
        if not _PMI.fullmatch(self.pmi):
            raise ValueError(f"pmi: expected a name that `srun --mpi=list` lists, such as pmi2, got {self.pmi!r}")
        if not self.command.strip():
            raise ValueError("command: expected the name or path of a program, such as mpiexec, got none")
        for pattern in self.environment:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(f"environment: expected names of variables, or beginnings with a *, got {pattern!r}")
        _check_binds(self.binds)


def _check_binds(binds: tuple[str, ...]) -> None:
    for bind in binds:
        if not _BIND.fullmatch(bind):
            raise ValueError(f"binds: expected /SOURCE[:/TARGET[:ro|rw]], got {bind!r}")


class Budgets(Section, frozen=True):
    """``[budgets]``: bytes of unsettled requests and results that may be held at once."""

    broker_bytes: SizeBytes = 1024 * MIB
    session_bytes: SizeBytes = 256 * MIB
    outbox_bytes: SizeBytes = 256 * MIB
    max_queued: Annotated[int, msgspec.Meta(ge=1)] = 100_000


class Recovery(Section, frozen=True):
    """``[recovery]``: how long the daemon waits for peers that are away.

    ``recovery_grace_s``: for replicas after the broker restarted. ``session_linger_s``: for a client that
    went away without a word. ``hang_grace_s``: past a request's deadline before its replica is killed.
    ``unreachable_s``: without a connection, before a replica is replaced as lost, or a pilot called unreachable.
    """

    recovery_grace_s: Seconds = 10.0
    session_linger_s: Seconds = 60.0
    hang_grace_s: Seconds = 10.0
    unreachable_s: Seconds = 4.0
    lease_s: Seconds = 15.0

    def __post_init__(self) -> None:
        if self.recovery_grace_s < RETRY_S:
            consequence = "replicas would be given up"
            raise ValueError(_too_short("recovery_grace_s", RETRY_S, self.recovery_grace_s, consequence))
        if self.unreachable_s < RETRY_S:
            consequence = "replicas that come back would be replaced"
            raise ValueError(_too_short("unreachable_s", RETRY_S, self.unreachable_s, consequence))


class Site(Section, frozen=True, kw_only=True):
    """One facility's configuration, whole. ``required`` names fields that its users must fill in."""

    name: str
    mode: Literal["personal", "service"] = "personal"
    auth: Literal["keys", "globus"] = "keys"
    state_dir: Path
    shared_dir: Path
    required: tuple[str, ...] = ()
    access: Access = Access()
    network: Network = Network()
    globus: Globus = Globus()
    daemon: Daemon = Daemon()
    scheduler: Scheduler = Scheduler()
    pilots: Pilots = Pilots()
    queues: Mapping[str, Queue] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    environments: Environments = Environments()
    containers: Containers = Containers()
    mpi: Mpi = Mpi()
    budgets: Budgets = Budgets()
    recovery: Recovery = Recovery()
    staging: Staging = Staging()

    @property
    def staging_dir(self) -> str:
        """Where staged results lie."""
        return self.staging.directory.rstrip("/") or str(self.shared_dir / "staged")

    def __post_init__(self) -> None:
        if self.mode == "service":
            self._check_service()
        if self.auth == "keys" and self.globus.client_id:
            raise ValueError("globus: counts only with auth = 'globus', and auth is 'keys'; set auth, or take it out")
        for field in ("client_id", "native_client_id") if self.auth == "globus" else ():
            if not getattr(self.globus, field):
                raise ValueError(f"globus.{field}: expected a client's id, since auth is 'globus', got none")
        self.access.check(self.auth)
        if self.staging.directory and Path(self.staging_dir).is_relative_to(self.state_dir):
            raise ValueError(f"staging.directory: {self.staging_dir} lies in state_dir, which no replica may see")
        if self.daemon.placement == "job" and self.scheduler.kind == "local":
            raise ValueError("daemon.placement: 'job' needs a batch scheduler, and scheduler.kind is 'local'")
        if self.containers.runtime != "none":
            self._check_shared_memory()
        for section, binds in (("containers", self.containers.binds), ("mpi", self.mpi.binds)):
            for bind in binds:
                self._check_bind(f"{section}.binds", bind)

    def _check_shared_memory(self) -> None:
        """Containers of ranks see all of a node's shared memory."""
        stage = (("containers.stage_dir", Path(self.containers.stage_dir)),) if self.containers.stage_dir else ()
        for field, ours in (*self._own(), *stage):
            if _shows(SHARED_MEMORY, ours):
                raise ValueError(
                    f"{field}: {str(ours)!r} lies in {SHARED_MEMORY}, which the ranks of a replica see in their "
                    "containers; name a directory elsewhere, such as one below /tmp"
                )

    def _check_bind(self, field: str, bind: str) -> None:
        source, *rest = bind.split(":")
        for name, ours in (*self._own(), ("the daemon's sockets", runtime_dir(self.state_dir))):
            if _shows(Path(source), ours) or _shows(ours, Path(source)):
                raise ValueError(f"{field}: {bind!r} would show {name} ({ours}); bind what is needed below it")
        stage_dir = self.containers.stage_dir
        if stage_dir and rest[1:] == ["rw"]:
            copies = stage_copies(Path(stage_dir))
            if _shows(Path(source), copies) or _shows(copies, Path(source)):
                raise ValueError(
                    f"{field}: {bind!r} would let servables write to the copies of images in containers.stage_dir "
                    f"({copies}); bind it read-only or what is needed below it, or name another stage_dir"
                )

    def _own(self) -> tuple[tuple[str, Path], ...]:
        return (("state_dir", self.state_dir), ("shared_dir", self.shared_dir))

    def _check_service(self) -> None:
        """One user id serves many: what a caller's code may do has to be bounded by more than that id."""
        if self.containers.runtime == "none":
            raise ValueError("mode: 'service' needs containers, and containers.runtime is 'none'")
        if self.auth != "globus":
            raise ValueError(f"mode: 'service' needs to know its callers: auth = \"globus\", got {self.auth!r}")
        if self.pilots.mps and not self.containers.trust_publishers:
            raise ValueError(
                "pilots.mps: with it containers share their node's memory, which is no wall in mode 'service'; set it "
                "to false, or containers.trust_publishers to true if you would let publishers run without containers"
            )
        if self.staging.roots:
            raise ValueError("staging.roots: in mode 'service' callers name files of their own staging directory only")
        if not self.staging.quota_bytes:
            raise ValueError(
                "staging.quota_bytes: mode 'service' needs a limit on the files of each caller, got 0; set it to what "
                "the file system has for one, in bytes"
            )


def _shows(bound: Path, ours: Path) -> bool:
    """Whether who sees one directory sees the other; as they are written, and where links of this host lead."""
    return ours.is_relative_to(bound) or Path(os.path.realpath(ours)).is_relative_to(os.path.realpath(bound))
