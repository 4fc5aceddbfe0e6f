"""The process of a replica, or of the launcher of its ranks: started, fed, listened to, reaped.

The replica's secret key reaches it through its standard input, never by its arguments or environment. That
pipe stays open for as long as the agent lives: its end of file tells the replica that the agent is gone.
What the replica prints is read in bounded pieces, one a turn, so no replica can crowd out another.

When it is started and ended, and what its end means, is said in :mod:`hpcserve.pilot.children`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import msgspec
import zmq

from hpcserve.cluster.processes import reap, signal_group, spawn
from hpcserve.pilot.logs import CappedLog
from hpcserve.pilot.pipes import pipe, read
from hpcserve.pilot.watch import Watch
from hpcserve.wire.launch import ReplicaSays, ReplicaStart, decode_says, encode_line

_DRAIN_BYTES = 1024 * 1024
_SAYS_BYTES = 1024 * 1024
_SAYS = b'{"state":'


class ReplicaProcess:
    """One such process.

    Args:
        argv: Its command.
        environment: Its variables.
        start: What it reads first.
        log: Gets all that it prints but its report.
        watch: The agent's.
        said: Called with its report, once.
        complained: Called with each piece of its standard error, once it is in the log.

    Attributes:
        pid: Its process id, also once it has ended.
        code: Its exit code, negative for a signal; None while it runs.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        start: ReplicaStart,
        *,
        log: CappedLog,
        watch: Watch,
        said: Callable[[ReplicaSays], None],
        complained: Callable[[bytes], None],
    ) -> None:
        self.code: int | None = None
        self._log = log
        self._watch = watch
        self._said = said
        self._complained = complained
        self._has_said = False
        self._part = b""
        self._unsent = memoryview(encode_line(start))
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, to_stdin = pipe(theirs, ours)
            self._output, output = pipe(ours, theirs)
            self._errors, errors = pipe(ours, theirs)
            self.pid = spawn(argv, environment=environment, stdin=stdin, stdout=output, stderr=errors)
            ours.pop_all()
        self._stdin: int | None = to_stdin
        for mine in (to_stdin, self._output, self._errors):
            os.set_blocking(mine, False)
        watch.add(self._output, self._read_output)
        watch.add(self._errors, self._read_errors)
        watch.add(to_stdin, self._feed, events=zmq.POLLOUT)

    def signal(self, number: int) -> None:
        """Sends a signal to it and what it has started."""
        signal_group(self.pid, number)

    def close_input(self) -> None:
        """Lets it see the end of its standard input."""
        if self._stdin is not None:
            self._watch.remove(self._stdin)
            os.close(self._stdin)
            self._stdin = None

    def reap(self) -> bool:
        """Whether it has ended; then all that it wrote is read."""
        if self.code is None:
            self.code = reap(self.pid)
            if self.code is not None:
                self._read_the_rest()
        return self.code is not None

    def _feed(self) -> None:
        """Writes what fits of the instructions; afterwards the pipe just stays open."""
        if self._stdin is None:
            return
        try:
            self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it has closed its input or died; reaping tells which
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._watch.remove(self._stdin)

    def _read_errors(self) -> bytes | None:
        chunk = read(self._errors)
        if chunk:
            self._log.write(chunk)
            self._complained(chunk)
        elif chunk is not None:
            self._watch.remove(self._errors)
        return chunk

    def _read_output(self) -> bytes | None:
        """Looks for the replica's report; whatever else stands on its standard output goes to the log."""
        chunk = read(self._output)
        if chunk:
            *lines, self._part = (self._part + chunk).split(b"\n")
            for line in lines:
                self._hear(line)
        elif chunk is not None:
            self._watch.remove(self._output)
        is_text = self._has_said and not self._part.startswith(_SAYS[: len(self._part)])
        if self._part and (chunk == b"" or is_text or len(self._part) > _SAYS_BYTES):
            self._log.write(self._part)
            self._part = b""
        return chunk

    def _hear(self, line: bytes) -> None:
        said = None
        with contextlib.suppress(msgspec.MsgspecError):
            said = decode_says(line)
        if said is None:
            self._log.write(line + b"\n")
        elif not self._has_said:  # of ranks that all take themselves for rank 0, the first one counts
            self._has_said = True
            self._said(said)

    def _read_the_rest(self) -> None:
        """Takes what the pipes still hold. A grandchild that left the process group may keep them open."""
        for reads in (self._read_errors, self._read_output):
            taken = 0
            while taken < _DRAIN_BYTES and (chunk := reads()):
                taken += len(chunk)
        self.close_input()
        for mine in (self._output, self._errors):
            self._watch.remove(mine)
            os.close(mine)
