"""A process that brings images to nodes, or the launcher of several: started, listened to, ended.

What is to be done, and what follows from its end, is said in :mod:`hpcserve.pilot.stages`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import msgspec

from hpcserve.cluster.processes import reap, signal_group, spawn
from hpcserve.pilot.pipes import CHUNK_BYTES, pipe, read
from hpcserve.pilot.stageplan import Told, decode_told
from hpcserve.pilot.watch import Watch

_log = logging.getLogger(__name__)


class StageProcess:
    """One such process.

    Args:
        argv: Its command.
        environment: Its variables.
        watch: The agent's.
        told: Called with each answer that it writes.

    Attributes:
        complaints: The end of what was written to its standard error, which the agent's own gets too.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], *, watch: Watch, told: Callable[[Told], None]
    ) -> None:
        self.complaints = b""
        self._watch = watch
        self._told = told
        self._part = b""
        with ExitStack() as theirs, ExitStack() as ours:
            self._output, output = pipe(ours, theirs)
            self._errors, errors = pipe(ours, theirs)
            nothing = theirs.enter_context(open(os.devnull, "rb")).fileno()
            self._pid = spawn(argv, environment=environment, stdin=nothing, stdout=output, stderr=errors)
            ours.pop_all()
        for mine, reads in ((self._output, self._read_output), (self._errors, self._read_errors)):
            os.set_blocking(mine, False)
            watch.add(mine, reads)

    def signal(self, number: int) -> None:
        """Sends a signal to it and what it has started."""
        signal_group(self._pid, number)

    def end(self) -> int | None:
        """Its exit code, negative for a signal, once it has ended and all that it wrote is read; None before."""
        code = reap(self._pid)
        if code is None:
            return None
        for reads in (self._read_output, self._read_errors):
            while reads():
                pass
        for mine in (self._output, self._errors):
            self._watch.remove(mine)
            os.close(mine)
        return code

    def _read_output(self) -> bytes | None:
        chunk = read(self._output)
        if chunk:
            *lines, self._part = (self._part + chunk).split(b"\n")
            for line in lines:
                self._hear(line)
        elif chunk is not None:
            self._watch.remove(self._output)
        return chunk

    def _hear(self, line: bytes) -> None:
        try:
            told = decode_told(line)
        except msgspec.MsgspecError:
            _log.warning("while an image is copied: %s", line.decode(errors="replace"))
        else:
            self._told(told)

    def _read_errors(self) -> bytes | None:
        chunk = read(self._errors)
        if chunk:
            self.complaints = (self.complaints + chunk)[-CHUNK_BYTES:]
            os.write(sys.stderr.fileno(), chunk)
        elif chunk is not None:
            self._watch.remove(self._errors)
        return chunk
