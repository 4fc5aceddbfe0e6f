"""One replica as a process: started, fed, listened to, stopped, reaped. When to start or stop it, others say.

The replica's secret key reaches it through its standard input, never by its arguments or environment. That
pipe stays open for as long as the agent lives: its end of file tells the replica that the agent is gone.
What the replica prints is read in bounded pieces, one a turn, so no replica can crowd out another.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq
from zmq.utils import z85

from hpcserve.cluster.processes import reap, signal_group, spawn
from hpcserve.pilot.command import Command
from hpcserve.pilot.logs import CappedLog
from hpcserve.pilot.outcome import Outcome, outcome
from hpcserve.pilot.watch import Watch
from hpcserve.wire.launch import ReplicaSays, ReplicaStart, decode_says, encode_line
from hpcserve.wire.messages import ReplicaSpec, ReplicaStatus

_CHUNK_BYTES = 64 * 1024
_DRAIN_BYTES = 1024 * 1024
_SAYS_BYTES = 1024 * 1024
_LAST_LINES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all replicas of an agent share.

    Attributes:
        command: Makes the command from the manifest's JSON; may raise ManifestError.
        record: The path of the service record.
        clock: Monotonic seconds.
        changed: Called when a replica's status is not what it was.
    """

    watch: Watch
    command: Callable[[str], Command]
    record: Path
    log_dir: Path
    log_bytes: int
    stop_grace_s: float
    changed: Callable[[], None]
    clock: Callable[[], float]


class Child:
    """One replica's process, from its start to its end.

    Raises:
        OSError: Its process cannot be started.
        ManifestError: Its command cannot be made.
    """

    def __init__(self, spec: ReplicaSpec, around: Surroundings, now: float) -> None:
        self._spec = spec
        self._around = around
        self._log = CappedLog(around.log_dir / f"{spec.replica}.log", around.log_bytes)
        self._said: ReplicaSays | None = None
        self._said_part = b""
        self._stopped = ""
        self._timed_out = ""
        self._setup_due_s: float | None = now + spec.setup_timeout_s
        self._kill_due_s: float | None = None
        self._exit_code: int | None = None
        self._end: Outcome | None = None
        public, secret = zmq.curve_keypair()
        self._public_key = z85.decode(public)
        self._start(z85.decode(secret))

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self._end is not None

    @property
    def due_s(self) -> float | None:
        """When :meth:`tick` has something to do, on the agent's clock."""
        dues = [due for due in (self._setup_due_s, self._kill_due_s) if due is not None]
        return min(dues, default=None)

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
            )
        ready = self._said is not None and self._said.state == "ready"
        return ReplicaStatus(
            self._spec.replica,
            "ready" if ready else "starting",
            self._public_key,
            pid=self._pid,
            deployment=self._spec.deployment,
            version=self._spec.version,
        )

    def stop(self, cause: str, now: float) -> None:
        """Asks it to end (SIGTERM); it is killed when its grace is over."""
        if self.ended or self._stopped:
            return
        self._stopped = cause
        self._setup_due_s = None
        signal_group(self._pid, signal.SIGTERM)
        self._kill_due_s = now + self._around.stop_grace_s

    def kill(self, cause: str) -> None:
        """Ends it at once."""
        if self.ended:
            return
        self._stopped = self._stopped or cause
        self._setup_due_s = None
        self._kill_due_s = None
        signal_group(self._pid, signal.SIGKILL)

    def tick(self, now: float) -> None:
        """Does what has become due."""
        if self._setup_due_s is not None and now >= self._setup_due_s:
            self._timed_out = f"setup did not finish within {self._spec.setup_timeout_s:g} s"
            self.kill(self._timed_out)
        if self._kill_due_s is not None and now >= self._kill_due_s:
            self.kill(self._stopped)

    def reap(self) -> None:
        """Notes its end, once its process is gone."""
        if self.ended:
            return
        code = reap(self._pid)
        if code is None:
            return
        self._read_the_rest()
        self._exit_code = code
        self._setup_due_s = self._kill_due_s = None
        self._end = outcome(
            code,
            self._said,
            stopped=self._stopped,
            timed_out=self._timed_out,
            last_lines=self._log.tail(_LAST_LINES),
        )
        if not self._stopped or self._timed_out:  # so that there is a log to look at, even if it printed nothing
            self._log.write(f"[this replica has ended: {self._end.cause}]\n".encode())
        self._log.close()
        self._around.changed()

    def _start(self, secret_key: bytes) -> None:
        around = self._around
        command = around.command(self._spec.manifest)
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, self._stdin = _pipe(theirs, ours)
            self._output, output = _pipe(ours, theirs)
            self._report, report = _pipe(ours, theirs)
            self._unsent = memoryview(encode_line(self._instructions(secret_key, report)))
            self._pid = spawn(
                command.argv,
                environment=command.environment,
                stdin=stdin,
                stdout=output,
                stderr=output,
                keep=(report,),
            )
            ours.pop_all()
        for mine in (self._stdin, self._output, self._report):
            os.set_blocking(mine, False)
        around.watch.add(self._output, self._read_output)
        around.watch.add(self._report, self._read_report)
        around.watch.add(self._stdin, self._feed, events=zmq.POLLOUT)

    def _instructions(self, secret_key: bytes, report_fd: int) -> ReplicaStart:
        spec = self._spec
        return ReplicaStart(
            replica=spec.replica,
            deployment=spec.deployment,
            version=spec.version,
            servable=spec.servable,
            manifest=spec.manifest,
            record=str(self._around.record),
            public_key=self._public_key,
            secret_key=secret_key,
            outbox_bytes=spec.outbox_bytes,
            hang_grace_s=spec.hang_grace_s,
            report_fd=report_fd,
        )

    def _feed(self) -> None:
        """Writes what fits of the instructions; afterwards the pipe just stays open."""
        try:
            self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it has closed its input or died; reaping tells which
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._around.watch.remove(self._stdin)

    def _read_output(self) -> None:
        chunk = _read(self._output)
        if chunk:
            self._log.write(chunk)
        elif chunk is not None:
            self._around.watch.remove(self._output)

    def _read_report(self) -> None:
        chunk = _read(self._report)
        if chunk is None:
            return
        self._said_part += chunk
        line, end, _ = self._said_part.partition(b"\n")
        if end or len(self._said_part) > _SAYS_BYTES:
            self._hear(line)
        if end or not chunk or len(self._said_part) > _SAYS_BYTES:
            self._around.watch.remove(self._report)

    def _hear(self, line: bytes) -> None:
        try:
            self._said = decode_says(line)
        except msgspec.MsgspecError as error:
            self._said = ReplicaSays(state="failed", cause=f"the replica sent a malformed report: {error}")
        self._setup_due_s = None
        if self._said.state == "failed":  # it ends by itself, soon or else
            self._kill_due_s = self._kill_due_s or self._around.clock() + self._around.stop_grace_s
        self._around.changed()

    def _read_the_rest(self) -> None:
        """Takes what the pipes still hold. A grandchild that left the process group may keep them open."""
        watch = self._around.watch
        taken = 0
        while taken < _DRAIN_BYTES and (chunk := _read(self._output)):
            self._log.write(chunk)
            taken += len(chunk)
        if self._said is None:
            self._read_report()
        for mine in (self._stdin, self._output, self._report):
            watch.remove(mine)
            os.close(mine)


def _pipe(reads: ExitStack, writes: ExitStack) -> tuple[int, int]:
    """A pipe whose two ends are closed by the two stacks."""
    read, write = os.pipe()
    reads.callback(os.close, read)
    writes.callback(os.close, write)
    return read, write


def _read(descriptor: int) -> bytes | None:
    """A piece of what is there: nothing at the end of file, None when there is nothing now."""
    try:
        return os.read(descriptor, _CHUNK_BYTES)
    except BlockingIOError:
        return None
