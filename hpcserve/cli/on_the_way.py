"""What a person is told of one transfer while a command looks on: how far it is, or that nobody says so any more."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from hpcserve.cli.transfers import progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcserve.client.sending import Transfer

SILENT_S = 10.0
"""It is looked at each two seconds; whoever has heard nothing for so long is told that."""


class OnTheWay:
    """One transfer.

    Args:
        say: Shows a line; each once.
        clock: Seconds.
    """

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._said = ""
        self._seen_at = clock()
        self.seen: Transfer | None = None
        self.waits_for_login = False

    def show(self, transfer: Transfer | None) -> None:
        """Says how far it is, by what is known of it now; the same object again: nothing new is."""
        if transfer is not None and transfer is not self.seen:
            self.seen, self._seen_at = transfer, self._clock()
        if self.seen is not None and (now := progress(self._known(self.seen))) != self._said:
            self._say(now)
            self._said = now

    def part(self) -> None:
        """Says what becomes of it after a Ctrl-C."""
        if self.seen is None:
            return
        known, id = self._known(self.seen), self.seen.id
        if self.waits_for_login or known.state == "offered":
            self._say(f"transfer {id} waits for you; it goes on after: hpcserve transfers --login")
        elif known.away:
            self._say(
                f"transfer {id} was {known.state} when it was seen last, and may have ended since; see, when the "
                "service answers: hpcserve transfers"
            )
        else:
            self._say(f"transfer {id} goes on; see: hpcserve transfers --watch")

    def _known(self, seen: Transfer) -> Transfer:
        if seen.away or self._clock() - self._seen_at < SILENT_S:
            return seen
        return replace(seen, away="the service gives no answer about it")
