"""The life of one replica: it waits for its image, starts, is ready, stops, ends. When to start or stop it, others say.

A replica on another node, and one of several ranks, is reached through its launcher's process. A SIGTERM to that one
kills the replica, so it is the end of its input that asks it to end; and a SIGKILL would leave it running there, so
that comes last.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq
from zmq.utils import z85

from hpcserve import __version__
from hpcserve.cluster.seam import LAUNCHER_KILL_S, Launcher
from hpcserve.errors import ConfigError, HpcserveError, ManifestError
from hpcserve.pilot.command import Command
from hpcserve.pilot.leash import leashed
from hpcserve.pilot.logs import CappedLog
from hpcserve.pilot.memory import MemoryWatch
from hpcserve.pilot.outcome import NOT_STOPPED, Outcome, Stop, hopeless, outcome
from hpcserve.pilot.ownimage import OwnImage
from hpcserve.pilot.ranks import Place
from hpcserve.pilot.replicaprocess import ReplicaProcess
from hpcserve.pilot.stages import Stages
from hpcserve.pilot.watch import Watch
from hpcserve.servable.manifest import from_json
from hpcserve.wire.agents import ReplicaSpec, ReplicaStatus
from hpcserve.wire.launch import GROUP, NO_TOPOLOGY_FILE, ReplicaSays, ReplicaStart, StagingRules

_LAST_LINES = 30
_LEFT = (0, -signal.SIGTERM, 128 + signal.SIGTERM)  # how a replica ends that was sent a SIGTERM, whoever sent it
LASTING = (ConfigError, ManifestError)
"""Errors for which the next replica cannot be started either."""
JUDGE_S = 1.0
"""A scheduler that ends the job sends a SIGTERM to all its processes: so long the agent's own may come later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all replicas of an agent share.

    Attributes:
        command: Makes the command of a replica at its place, from the copies of its image there, if there are any; may
            raise ManifestError.
        images: Brings images to nodes.
        record: The path of the service record.
        slots: How many each node has.
        replicas_per_gpu: So many of them share one GPU.
        clock: Monotonic seconds.
        changed: Called when a replica's status is not what it was.
        staging: How the site stages results and inputs.
    """

    watch: Watch
    command: Callable[[ReplicaSpec, Place, str], Command]
    images: Stages
    launcher: Launcher
    memory: MemoryWatch
    record: Path
    log_dir: Path
    log_bytes: int
    slots: int
    replicas_per_gpu: int
    stop_grace_s: float
    changed: Callable[[], None]
    clock: Callable[[], float]
    staging: StagingRules


class Child:
    """One replica's process, or that of the launcher of all its ranks, from its start to its end.

    Raises:
        OSError: Its process cannot be started.
        ConfigError: There is no launcher for its ranks.
        ManifestError: Its command cannot be made.
    """

    def __init__(self, spec: ReplicaSpec, place: Place, around: Surroundings, now: float) -> None:
        self.place = place
        """Where it runs."""
        self.lost_node = False
        """Whether it has shown, by its end, that nothing can be started on its node any more, or on one of several."""
        self.lost_nodes: tuple[str, ...] = ()
        """Which, where its launcher has named them."""
        self._several = len(place.ranks) > 1
        self._elsewhere = around.launcher.elsewhere or self._several
        self._spec = spec
        self._around = around
        self._log = CappedLog(around.log_dir / f"{spec.replica}.log", around.log_bytes)
        self._said: ReplicaSays | None = None
        self._stopped = NOT_STOPPED
        self._given_up = ""
        self._refused = False
        self._contained = False
        self._began_s = now
        self._phases: dict[str, float] = {}
        self._setup_due_s: float | None = None
        self._kill_due_s: float | None = None
        self._force_due_s: float | None = None
        self._judge_due_s: float | None = None
        self._exit_code: int | None = None
        self._end: Outcome | None = None
        public, secret = zmq.curve_keypair()
        self._public_key = z85.decode(public)
        self._secret_key = z85.decode(secret)
        self._process: ReplicaProcess | None = None
        self._image = OwnImage(around.images, spec.manifest, place.nodes, now)
        if self._image.settled:
            self._start(now)

    @property
    def image(self) -> str:
        """The sha256 of the image that is copied for it; empty if none is."""
        return self._image.sha256

    @property
    def started(self) -> bool:
        """Whether it has, or had, a process: before, it waits for its image."""
        return self._process is not None

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self._end is not None

    @property
    def stopping(self) -> bool:
        """Whether its end was asked for; its process may still be there."""
        return bool(self._stopped)

    @property
    def kill_s(self) -> float:
        """So much longer than its grace its end may take: all its ranks are to be killed by their launcher."""
        return 0.0 if self.ended or not self._several else LAUNCHER_KILL_S

    @property
    def due_s(self) -> float | None:
        """When :meth:`tick` has something to do, on the agent's clock."""
        if self._can_start:
            return self._began_s
        dues = (self._setup_due_s, self._kill_due_s, self._force_due_s, self._judge_due_s)
        return min((due for due in dues if due is not None), default=None)

    @property
    def status(self) -> ReplicaStatus:
        """What the report says of it."""
        if self._end is not None:
            return ReplicaStatus(
                self._spec.replica,
                self._end.state,
                self._public_key,
                exit_code=self._exit_code,
                cause=self._end.cause,
                traceback=self._end.traceback,
                deployment=self._spec.deployment,
                version=self._spec.version,
                kind=self._end.kind,
                evidence=self._end.evidence,
                host=self.place.nodes[0],
                nodes=self.place.nodes,
                lasting=self._end.lasting,
            )
        return ReplicaStatus(
            self._spec.replica,
            "ready" if self._ready else "starting",
            self._public_key,
            pid=self._process.pid if self._process is not None else None,
            cause=self._image.cause,
            deployment=self._spec.deployment,
            version=self._spec.version,
            host=self.place.nodes[0],
            nodes=self.place.nodes,
            slots=self.place.slots,
            phases=self._phases,
        )

    def stop(self, why: Stop, now: float) -> None:
        """Asks it to end; it is killed when its grace is over."""
        if self.ended or self._stopped:
            return
        self._stopped = why
        self._setup_due_s = None
        process = self._process
        if process is None:
            self._never_start(Outcome("exited", f"{why.cause} (it had not been started)", kind=why.kind))
            return
        if process.code is not None:
            return
        if not self._elsewhere:
            process.signal(signal.SIGTERM)
        elif self._ready:
            process.close_input()
        else:  # it does not look at its input yet, and what it does cannot be lost
            self._kill(process)
            return
        self._kill_due_s = now + self._around.stop_grace_s

    def kill(self, why: Stop) -> None:
        """Ends it at once."""
        if self.ended:
            return
        self._stopped = self._stopped or why
        self._setup_due_s = None
        if self._process is None:
            self._never_start(Outcome("exited", f"{why.cause} (it had not been started)", kind=why.kind))
        elif self._process.code is None:
            self._kill(self._process)

    def abandon(self, why: Stop) -> None:
        """Its node is taken for lost, which it may not be: it is killed, and counts as lost with it."""
        if self.ended:
            return
        self._stopped = why
        self.kill(why)

    def tick(self, now: float) -> None:
        """Does what has become due."""
        if self._can_start:
            self._image.look_again()
        if self._can_start:
            self._start_late(now)
        if self._setup_due_s is not None and now >= self._setup_due_s:
            self._given_up = f"setup and warm-up did not finish within {self._spec.setup_timeout_s:g} s"
            self.kill(Stop(self._given_up))
        if self._kill_due_s is not None and now >= self._kill_due_s:
            self.kill(self._stopped)
        if self._force_due_s is not None and now >= self._force_due_s and self._process is not None:
            self._force_due_s = None
            self._process.signal(signal.SIGKILL)

    def reap(self, now: float) -> None:
        """Notes its end, once its process is gone."""
        process = self._process
        if self.ended or process is None:
            return
        was_there = process.code is None
        if not process.reap() or process.code is None:
            return
        if was_there:
            self._setup_due_s = self._kill_due_s = self._force_due_s = None
            if process.code in _LEFT and not self._stopped:
                self._judge_due_s = now + JUDGE_S
        if self._stopped or self._judge_due_s is None or now >= self._judge_due_s:
            self._judge(process.code)

    def _judge(self, raw_code: int) -> None:
        self._judge_due_s = None
        last_lines = self._log.tail(_LAST_LINES)
        end = self._around.launcher.ended(raw_code, last_lines)
        self._exit_code = end.exit_code
        self.lost_node, self.lost_nodes = end.lost_node, end.lost_nodes
        killed = end.exit_code == -signal.SIGKILL and not self._stopped
        self._end = outcome(
            end,
            self._said,
            stopped=self._stopped,
            given_up=self._given_up,
            lasting=self._refused,
            last_lines=last_lines,
            out_of_memory=killed and self._around.memory.take(),
        )
        if not self._stopped or self._given_up:  # so that there is a log to look at, even if it printed nothing
            self._log.write(f"[this replica has ended: {self._end.cause}]\n".encode())
        self._log.close()
        self._around.changed()

    @property
    def _can_start(self) -> bool:
        return not self.started and not self.ended and self._image.settled

    def _start_late(self, now: float) -> None:
        """Now that it is known from where its image is read."""
        try:
            self._start(now)
        except (OSError, HpcserveError) as error:
            lasting = isinstance(error, LASTING)
            self._never_start(Outcome("failed", f"it cannot be started: {error}", kind="crashed", lasting=lasting))
        self._around.changed()

    def _never_start(self, end: Outcome) -> None:
        self._end = end
        self._log.write(f"[this replica was not started: {end.cause}]\n".encode())
        self._log.close()
        self._around.changed()

    def _start(self, now: float) -> None:
        around = self._around
        command = around.command(self._spec, self.place, self._image.path(now))
        self._contained = bool(command.servable)
        if self._image.cause:
            self._log.write(f"[{self._image.cause}]\n".encode())
        environment = command.environment
        if self._several:
            environment = {**NO_TOPOLOGY_FILE, **environment, GROUP: self._public_key.hex()}
        try:
            self._process = ReplicaProcess(
                leashed(command.argv) if self._elsewhere and around.launcher.dies_whole else command.argv,
                environment,
                self._instructions(command),
                log=self._log,
                watch=around.watch,
                said=self._hear,
                complained=self._look_for_refusal,
            )
        except FileNotFoundError as error:
            if not self._several:
                raise
            raise ConfigError(
                f"there is no command {command.argv[0]!r} on {self.place.nodes[0]} to start MPI ranks; install it, "
                "load its module in pilots.setup, or correct mpi.command of the site file"
            ) from error
        self._began_s = now
        self._setup_due_s = now + self._spec.setup_timeout_s

    def _instructions(self, command: Command) -> ReplicaStart:
        spec = self._spec
        return ReplicaStart(
            replica=spec.replica,
            deployment=spec.deployment,
            version=spec.version,
            servable=command.servable or spec.servable,
            manifest=spec.manifest,
            record=command.record or str(self._around.record),
            public_key=self._public_key,
            secret_key=self._secret_key,
            outbox_bytes=spec.outbox_bytes,
            hang_grace_s=spec.hang_grace_s,
            collective_grace_s=from_json(spec.manifest).ranks.grace_s,
            software=f"hpcserve {__version__}",
            staging=msgspec.structs.replace(self._around.staging, seen=command.seen),
        )

    @property
    def _ready(self) -> bool:
        return self._said is not None and self._said.state == "ready"

    def _kill(self, process: ReplicaProcess) -> None:
        self._kill_due_s = None
        if not self._elsewhere:
            process.signal(signal.SIGKILL)
        elif self._force_due_s is None:
            self._force_due_s = self._around.clock() + LAUNCHER_KILL_S
            process.signal(signal.SIGTERM)
            process.close_input()  # should the launcher die without having done it

    def _look_for_refusal(self, written: bytes) -> None:
        """One rank that ends before MPI knows of it is waited for by the others until somebody ends them."""
        if not self._several or self._said is not None or self._stopped:
            return
        why = hopeless(self._log.tail(_LAST_LINES) + "\n" * written.endswith(b"\n"), contained=self._contained)
        if why:
            self._given_up, self._refused = why, True
            self.kill(Stop(why))

    def _hear(self, said: ReplicaSays) -> None:
        self._said = said
        self._setup_due_s = None
        self._phases = self._whole(said.phases)
        if said.state == "failed":  # it ends by itself, soon or else
            self._kill_due_s = self._kill_due_s or self._around.clock() + self._around.stop_grace_s
        self._around.changed()

    def _whole(self, phases: dict[str, float]) -> dict[str, float]:
        """The phases that the replica has measured, and before them what it took until there was one."""
        if not phases:
            return {}
        rest_s = self._around.clock() - self._began_s - sum(phases.values())
        return {**self._image.phase, **phases, "start": max(0.0, rest_s) + phases.get("start", 0.0)}
