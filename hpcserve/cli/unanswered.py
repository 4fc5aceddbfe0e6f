"""Calls that are made again until the daemon answers: who sits at the terminal hears that it does not."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from hpcserve.errors import DeadlineExceeded, Overloaded, ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcserve.client.sending import Ask
    from hpcserve.wire.admin import Admin

T = TypeVar("T")

SILENT_S = 10.0


class Unanswered:
    """As the calls of a client, of which each is made again where the daemon is away.

    Args:
        ask: Makes one.
        say: Shows a line.
        silent_s: It is said after so long without an answer, once until there is one.
    """

    def __init__(self, ask: Ask, say: Callable[[str], object], silent_s: float = SILENT_S) -> None:
        self._ask = ask
        self._say = say
        self._silent_s = silent_s
        self._timer: threading.Timer | None = None

    def __call__(self, verb: str, arguments: Admin, answer: type[T]) -> T:
        """See :meth:`hpcserve.Client.call`."""
        if self._timer is None:
            self._timer = threading.Timer(self._silent_s, self._tell)
            self._timer.daemon = True
            self._timer.start()
        try:
            answered = self._ask(verb, arguments, answer)
        except (DeadlineExceeded, Overloaded, ServiceUnavailable):
            raise  # it is asked again, and the time goes on
        except BaseException:
            self._over()
            raise
        self._over()
        return answered

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        self._say(
            "the daemon does not answer; it is asked again for ten minutes. If it was killed: hpcserve up. Ctrl-C ends "
            "this command, and hpcserve transfers --login goes on where it was"
        )
