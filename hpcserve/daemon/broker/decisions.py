"""What the broker has decided, on its way to the controller, which writes the audit log.

A decision is kept until the controller has it. Of a controller that dies the next one may be told some again; while
none comes at all only so many are kept, and the others counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from hpcserve.core.gate import Decided
from hpcserve.wire.hub import Asker, CallDecided, CallsDecided

KEPT = 10_000
AT_ONCE = 100


class Decisions:
    """The decisions that the controller may not have yet.

    Args:
        tell: Tells the controller; False: it is not connected.
    """

    def __init__(self, tell: Callable[[CallsDecided], bool]) -> None:
        self._tell = tell
        self._untold: deque[CallDecided] = deque()
        self._told: deque[CallDecided] = deque()
        self._number = 0
        self._lost = 0

    def add(self, news: list[Decided]) -> None:
        """The gate has decided."""
        for each in news:
            asker = each.session.identity
            assert isinstance(asker, Asker), "the front put an Asker into every session"
            self._number += 1
            self._untold.append(CallDecided(self._number, asker, each.id, each.endpoint, *each.decision))
        while len(self._told) + len(self._untold) > KEPT:
            (self._told or self._untold).popleft()
            self._lost += 1

    def send(self) -> None:
        """Tells what was not told yet."""
        while self._untold:
            some = tuple(islice(self._untold, AT_ONCE))
            if not self._tell(CallsDecided(some, self._lost)):
                return
            self._lost = 0
            self._told.extend(self._untold.popleft() for _ in some)

    def send_again(self) -> None:
        """There is a new controller: it is told what the one before it has not said that it had."""
        self._untold.extendleft(reversed(self._told))
        self._told.clear()
        self.send()

    def noted(self, number: int) -> None:
        """The controller has these."""
        while self._told and self._told[0].number <= number:
            self._told.popleft()
