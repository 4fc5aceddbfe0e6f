"""Watches over rank 0 while it takes part in a collective call: it may wait for ever for a rank that has raised.

The main thread is then within MPI, where nothing of Python's reaches it. So a second thread looks for the news, and
ends the process in its stead.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.replica.ranks import Answers

LOOK_S = 0.05
IDLE_S = 1.0


class Guard:
    """Looks after rank 0's main thread while it takes part in a call.

    Args:
        grace_s: How long the others may take to return once a rank has failed.
        may_look: Whether a second thread may use MPI. If not, only the request's deadline ends what waits for ever.

    Attributes:
        lost: Called with the error, in a thread of its own, when the main thread will not return: to end the process.
    """

    def __init__(self, grace_s: float, *, may_look: bool = True) -> None:
        self.grace_s = grace_s
        self._may_look = may_look
        self.lost: Callable[[HpcserveError], object] = lambda error: None
        self._call: Answers | None = None
        self._turn = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, answers: Answers) -> None:
        """The main thread takes part from now on in what these are the answers to."""
        self._call = answers
        if not self._may_look:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="guard", daemon=True)
            self._thread.start()
        if not self._wanted.is_set():
            self._wanted.set()

    def done(self) -> None:
        """It has returned. Does not return itself where that is too late."""
        with self._turn:
            self._call = None

    def _look(self) -> None:
        while True:
            self._wanted.wait()
            idle_s = 0.0
            while idle_s < IDLE_S:
                time.sleep(LOOK_S)
                idle_s = 0.0 if self._look_at(self._call) else idle_s + LOOK_S
            self._wanted.clear()
            if self._call is not None:  # it began meanwhile
                self._wanted.set()

    def _look_at(self, answers: Answers | None) -> bool:
        if answers is None:
            return False
        answers.poll()
        if time.monotonic() <= answers.troubled_at + self.grace_s:
            return True
        with self._turn:
            if self._call is answers:
                error = answers.error() or ServableError("another rank failed")
                sys.stderr.write(f"rank 0 still waits {self.grace_s:g} s after another rank failed: {error.message}\n")
                self.lost(error)
        return True
