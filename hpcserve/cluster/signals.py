"""Signals as something to poll: a byte arrives on a socket, and the poll wakes up."""

from __future__ import annotations

import contextlib
import signal
import socket
from types import FrameType

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
        self._warning = warning
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        noted = (*STOP, signal.SIGCHLD, *(() if warning is None else (warning,)))
        self._old_handlers = {number: signal.signal(number, self._note) for number in noted}

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._inside.fileno()

    def drain(self) -> None:
        """Takes what woke the poll up. It does not block."""
        with contextlib.suppress(BlockingIOError):
            while self._inside.recv(4096):
                pass

    def close(self) -> None:
        """Puts everything back as it was."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._inside.close()
        self._outside.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == self._warning:
            self.warned = True
        elif number in STOP and not self.stop:
            self.stop = signal.Signals(number).name
