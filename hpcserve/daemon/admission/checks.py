"""Questions to Globus, in threads of their own: admission goes on meanwhile, and is woken when one is answered.

The threads are started, and have done what takes memory, before the process's memory is bounded. They end with the
process: an answer that nobody waits for any more is not waited for.

Questions about those who are in go before those about strangers, and some of the threads are kept for them: however
many tokens strangers invent, and however slowly Globus answers, who is in is asked about in time.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from hpcserve.core.tokens import Checked, Question
from hpcserve.errors import ServiceUnavailable

_log = logging.getLogger(__name__)

_TOO_LATE = Checked(error=ServiceUnavailable("too many log in at once; try again in a moment", retry_after_s=2.0))


class Checker(Protocol):
    """Who answers. Each thread has its own."""

    def check(self, question: Question, token: str) -> Checked:
        """Blocks until there is an answer; what goes wrong is in it."""


class Answered(NamedTuple):
    """A question and what has come of it."""

    question: Question
    checked: Checked


class Checks:
    """The threads.

    Args:
        checker: Makes one that answers, in the thread that will use it.
        threads: How many questions are under way at once.
        kept: So many of the threads are for questions about those who are in.

    Raises:
        HpcserveError: No checker can be made.
    """

    def __init__(self, checker: Callable[[], Checker], *, threads: int, kept: int) -> None:
        self._first: deque[tuple[Question, str]] = deque()
        self._strangers: deque[tuple[Question, str]] = deque()
        self._some = threading.Condition()
        self._answers: queue.SimpleQueue[Answered] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        ready = threading.Barrier(threads + 1)
        for number in range(threads):
            name = f"hpcserve-check-{number}"
            arguments = checker(), ready, number < kept
            threading.Thread(target=self._work, args=arguments, name=name, daemon=True).start()
        ready.wait()

    def fileno(self) -> int:
        """Is readable when there are answers."""
        return self._wake_read

    def ask(self, question: Question, token: str) -> None:
        """Has a question put as soon as a thread is free."""
        with self._some:
            (self._first if question.first else self._strangers).append((question, token))
            self._some.notify_all()

    def take(self) -> list[Answered]:
        """All answers that have come, once."""
        try:
            os.read(self._wake_read, 1 << 16)
        except BlockingIOError:
            return []
        found = []
        while True:
            try:
                found.append(self._answers.get_nowait())
            except queue.Empty:
                return found

    def _next(self, *, kept: bool) -> tuple[Question, str]:
        with self._some:
            self._some.wait_for(lambda: self._first or (self._strangers and not kept))
            return (self._first or self._strangers).popleft()

    def _work(self, checker: Checker, ready: threading.Barrier, kept: bool) -> None:  # noqa: FBT001 (of Thread's args)
        ready.wait()
        while True:
            question, token = self._next(kept=kept)
            try:
                checked = checker.check(question, token) if time.monotonic() < question.until else _TOO_LATE
            except Exception as error:  # noqa: BLE001 (closed: a defect lets nobody in, and ends no thread)
                _log.error("a login could not be checked: %s", type(error).__name__)
                checked = Checked(error=ServiceUnavailable("your login could not be checked; try again later"))
            self._answers.put(Answered(question, checked))
            try:
                os.write(self._wake_write, b"\0")
            except BlockingIOError:
                continue  # the pipe is full: whoever reads it will be woken anyway
