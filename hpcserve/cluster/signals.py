"""Signals as something to poll: a byte arrives on a socket, and the poll wakes up."""

from __future__ import annotations

import contextlib
import signal
import socket
from types import FrameType

_AT_ONCE_S = 0.001
"""A timer of 0 would be none."""

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Notes the signals that end a process, and lets SIGCHLD wake its poll up. One in a process.

    Args:
        warning: A signal that says that the process will have to end soon.
    """

    def __init__(self, warning: signal.Signals | None = None) -> None:
        self.stop = ""
        """The name of the first signal that asked the process to end; empty until then."""
        self.warned = False
        """Whether the warning came."""
        self._warnings = set() if warning is None else {warning}
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        noted = (*STOP, signal.SIGCHLD, *self._warnings)
        self._old_handlers = {number: signal.signal(number, self._note) for number in noted}

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._inside.fileno()

    def drain(self) -> None:
        """Takes what woke the poll up. It does not block."""
        with contextlib.suppress(BlockingIOError):
            while self._inside.recv(4096):
                pass

    def warn_in(self, delay_s: float) -> None:
        """Nobody else sends the warning: it is taken to have come so many seconds from now, or at once."""
        self._warnings.add(signal.SIGALRM)
        self._old_handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._note)
        signal.setitimer(signal.ITIMER_REAL, max(delay_s, _AT_ONCE_S))

    def close(self) -> None:
        """Puts everything back as it was."""
        if signal.SIGALRM in self._warnings:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._inside.close()
        self._outside.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number in self._warnings:
            self.warned = True
        elif number in STOP and not self.stop:
            self.stop = signal.Signals(number).name
