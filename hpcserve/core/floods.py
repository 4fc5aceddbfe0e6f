"""Which lines of the audit log are left out because one caller makes too many, and how many that were.

What changes something is never left out. What only asks (calls, looks) and what was denied is, past a rate for each
caller: somebody who is refused ten thousand times a second must neither fill the disk nor push older lines out. The
next line of the same caller says how many are missing before it. Who the callers are is the audit log's to say: there
all strangers are one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from hpcserve.core.ratelimit import Buckets

DENIED = (1.0, 60.0)
"""Of one caller: lines a second, and at once."""
ASKED = (20.0, 2000.0)
"""As many ranks may begin to call at the same moment."""
MOST_CALLERS = 10_000


class Floods:
    """What was left out, by caller."""

    def __init__(self, denied: tuple[float, float] = DENIED, asked: tuple[float, float] = ASKED) -> None:
        self._denied = Buckets(*denied, MOST_CALLERS)
        self._asked = Buckets(*asked, MOST_CALLERS)
        self._left_out: OrderedDict[Hashable, int] = OrderedDict()

    def take(self, who: Hashable, *, allowed: bool, changes: bool, now: float) -> int | None:
        """Whether a line is written.

        Args:
            who: The caller.
            allowed: What was decided.
            changes: Whether it is about a change, were it allowed.
            now: Monotonic seconds.

        Returns:
            How many of this caller's lines are missing before it; None: this one is left out too.
        """
        buckets = self._asked if allowed else self._denied
        if not (allowed and changes) and buckets.take(who, now):
            self._left_out[who] = self._left_out.pop(who, 0) + 1
            if len(self._left_out) > MOST_CALLERS:
                self._left_out.popitem(last=False)
            return None
        return self._left_out.pop(who, 0)
