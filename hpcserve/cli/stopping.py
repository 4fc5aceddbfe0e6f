"""What a signal does to a command that has things to clean up: it interrupts the work, once, and never the cleaning.

The signals are noted from the beginning to the end; one raises :class:`Stopped` only inside ``with stops.work()``.
What is made before that block and undone after it is undone whatever signals come, and however many.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STDERR = 2


def say_stopping() -> None:
    """For a signal's handler. Not through the stream: it may be just this that was interrupted."""
    with contextlib.suppress(OSError):
        os.write(STDERR, "stopping…\n".encode())


class Stopped(BaseException):
    """The work is over; what is left to do is to clean up."""


class Stops:
    """The handlers of the signals that end a process. Make it in the main thread, before anything is to be undone."""

    def __init__(self) -> None:
        self.number = 0
        """The first signal that came; 0: none."""
        self._works = False
        for number in STOPPED_BY:
            signal.signal(number, self._note)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """What a signal may interrupt.

        Raises:
            Stopped: A signal came, before or meanwhile.
        """
        self._works = True
        try:
            self.check()
            yield
        finally:
            self._works = False

    def check(self) -> None:
        """Call it between the steps of the work: an exception out of a signal may have been lost in a destructor.

        Raises:
            Stopped: A signal has come.
        """
        if self.number:
            self._works = False
            raise Stopped

    def exit_code(self) -> int:
        """What the process is to end with, when all is cleaned up. Signals are ignored from now on."""
        # Python's end gives handlers of its own back to the system, and another signal would change the exit code.
        for number in STOPPED_BY:
            signal.signal(number, signal.SIG_IGN)
        return 128 + self.number

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            return
        self.number = number
        say_stopping()
        if self._works:
            self._works = False
            raise Stopped
