"""How long a request may take from when it is given to a replica until its answer, and what follows for one that ends.

The longest time lately seen, not a mean: who is given a request by it is to finish. What lay before a request at its
replica is in it, since that took its time too. It is that of the last ten minutes, and of the last 200 requests at
least, so that neither a burst nor a quiet hour makes it forget.

A replica whose pilot ends *closes* so long before the end: it is given nothing that it is not expected to finish. Where
nothing was measured it closes at the end. And it is open for half of its time at least, however long requests take:
otherwise those that may take longer than a pilot lasts would never run, and the short ones beside them neither.
"""

from __future__ import annotations

from collections import deque

from hpcserve.core.ledger import NEVER

SPANS = 4
SPAN_S = 150.0
SPAN_ANSWERS = 50
"""A span is over when both have passed; the open one and ``SPANS`` before it are remembered."""


class Longest:
    """The longest time of one deployment. ``s``: in all that is remembered, 0 while nothing is."""

    __slots__ = ("_answered", "_began", "_spans", "s", "span_s")

    def __init__(self) -> None:
        self.s = 0.0
        self.span_s = 0.0
        """In the open span. Only what is longer need be told to :meth:`took`."""
        self._spans: deque[float] = deque(maxlen=SPANS)
        self._began = -NEVER
        self._answered = 0

    def took(self, seconds: float) -> bool:
        """A request took so long. True: longer than any that is remembered."""
        self.span_s = max(self.span_s, seconds)
        is_longest = seconds > self.s
        self.s = max(self.s, seconds)
        return is_longest

    def look(self, now: float, answered: int) -> None:
        """To be called now and then. ``answered``: how many requests were, ever."""
        if self._began == -NEVER:
            self._began = now
        if now - self._began < SPAN_S or answered - self._answered < SPAN_ANSWERS:
            return
        self._spans.append(self.span_s)
        self._began, self._answered, self.span_s = now, answered, 0.0
        self.s = max(self._spans)


def closes_at(ends_at: float, since: float, longest_s: float) -> float:
    """When a replica closes that ends at ``ends_at``, and has been known ``since`` then."""
    return ends_at - min(longest_s, max(0.0, ends_at - since) / 2)
