"""Calls that are made again until the daemon answers: at the terminal it is told what it says, or that it is silent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from hpcserve.core.spelling import printable
from hpcserve.errors import DeadlineExceeded, Overloaded, ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcserve.client.sending import Ask
    from hpcserve.wire.admin import Admin

T = TypeVar("T")

SILENT_S = 10.0
UNHEARD = "nothing is heard of the daemon yet (if it was killed: hpcserve up)"
AGAIN = (
    "it is asked again for ten minutes. Ctrl-C ends this command, and hpcserve transfers --login goes on where it was"
)


class Unanswered:
    """As the calls of a client, of which each is made again where the daemon, or what it asks, is away.

    Args:
        ask: Makes one.
        say: Shows a line.
        silent_s: After so long without success it is said what was told last, or that nothing was; then what is told
            first. Each once until there is an answer.
    """

    def __init__(self, ask: Ask, say: Callable[[str], object], silent_s: float = SILENT_S) -> None:
        self._ask = ask
        self._say = say
        self._silent_s = silent_s
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._words = ""
        self._is_late = False

    def __call__(self, verb: str, arguments: Admin, answer: type[T]) -> T:
        """See :meth:`hpcserve.Client.call`."""
        if self._timer is None:
            self._timer = threading.Timer(self._silent_s, self._tell)
            self._timer.daemon = True
            self._timer.start()
        try:
            answered = self._ask(verb, arguments, answer)
        except (DeadlineExceeded, Overloaded, ServiceUnavailable) as error:
            self._hear(printable(error.message))
            raise  # it is asked again, and the time goes on
        except BaseException:
            self._over()
            raise
        self._over()
        return answered

    def _hear(self, words: str) -> None:
        with self._lock:
            is_first, self._words = not self._words, words
            if is_first and self._is_late:
                self._say(f"{words}; {AGAIN}")

    def _tell(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._is_late = True
                self._say(f"{self._words or UNHEARD}; {AGAIN}")

    def _over(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._words, self._is_late = None, "", False
