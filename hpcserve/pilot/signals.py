"""Signals as something to poll: a byte arrives on a socket, and the poll wakes up."""

from __future__ import annotations

import contextlib
import signal
import socket
from types import FrameType

from hpcserve.pilot.watch import Watch

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Notes the signals that end an agent, and lets SIGCHLD wake it up. One in a process."""

    def __init__(self, watch: Watch) -> None:
        self.stop = ""
        """The name of the first signal that asked the agent to end."""
        self._watch = watch
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, self._note) for number in (*_STOP, signal.SIGCHLD)}
        watch.add(self._inside.fileno(), self._drain)

    def close(self) -> None:
        """Puts everything back as it was."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._watch.remove(self._inside.fileno())
        self._inside.close()
        self._outside.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number in _STOP and not self.stop:
            self.stop = signal.Signals(number).name

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._inside.recv(4096):
                pass
