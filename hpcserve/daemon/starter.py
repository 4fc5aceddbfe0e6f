"""Whoever started the daemon: is told how the start goes and went, and may take the daemon down by ending itself.

``tied``: the daemon lives as long as its standard input is open. ``detach_fd``: until the byte ``k`` (keep) is
read from it, its end means the same; so a starter that dies before it knows of the daemon leaves none behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from hpcserve.daemon.launch import DaemonReport, encode_line, in_json
from hpcserve.daemon.lifeline import Lifeline
from hpcserve.daemon.streams import let_go
from hpcserve.errors import HpcserveError

_log = logging.getLogger(__name__)

KEEP = b"k"


class Starter:
    """The pipes to and from the starter.

    Args:
        tied: Whether standard input is our lifeline.
        ready_fd: Where to report, if anybody listens.
        detach_fd: Where ``k`` comes from, if anybody sends it.
    """

    def __init__(self, *, tied: bool = False, ready_fd: int | None = None, detach_fd: int | None = None) -> None:
        self.gone = ""
        """Why the daemon is to go down; empty as long as it is not."""
        self._ready_fd = ready_fd
        self._detach_fd = detach_fd
        self._lifeline = Lifeline(0) if tied else None
        for descriptor in (ready_fd, detach_fd):
            if descriptor is not None:
                os.set_inheritable(descriptor, False)
                os.set_blocking(descriptor, False)

    def sources(self) -> list[int]:
        """The descriptors to poll for reading, now; when one is readable, call :meth:`hear`."""
        if self.gone:
            return []
        found = [] if self._lifeline is None else [self._lifeline.fileno()]
        return found if self._detach_fd is None else [*found, self._detach_fd]

    def hear(self) -> None:
        """Reads what there is to read. It does not block."""
        if self._lifeline is not None and self._lifeline.gone():
            self.gone = "who started it has ended"
        if self._detach_fd is None:
            return
        with contextlib.suppress(BlockingIOError):
            if os.read(self._detach_fd, 1) != KEEP:
                self.gone = "who started it has ended before it was ready"
            let_go(self._detach_fd)
            self._detach_fd = None

    def report(self, report: DaemonReport) -> None:
        """Says how the start went; only the first report counts."""
        if self._ready_fd is None:
            return
        try:
            os.write(self._ready_fd, encode_line(report))
        except OSError as error:
            _log.warning("nobody listens to how the start went: %s", error)
        let_go(self._ready_fd)
        self._ready_fd = None

    def tell(self, waits: str) -> None:
        """Says what the start waits for; a report follows."""
        if self._ready_fd is None:
            return
        with contextlib.suppress(OSError):  # as the report will find, too
            os.write(self._ready_fd, encode_line(DaemonReport(waits=waits)))

    def complain(self, failure: HpcserveError) -> None:
        """Says why there is no daemon: to the starter, and to whoever sees standard error."""
        self.report(DaemonReport(error=in_json(failure)))
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{failure}\n")
            sys.stderr.flush()
