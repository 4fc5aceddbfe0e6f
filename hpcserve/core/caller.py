"""The client's half of the recovery protocol: what it waits for, and what it has settled.

A request stays outstanding until its answer is there, its deadline is over or the caller gave it up; each
of these settles it, and what is settled is acknowledged to the broker: all ids below the *floor*, and
single ones above it. After any break RESUME names the floor and what is outstanding, which says it all.

A request that was refused for want of room, with a time after which to ask again, stays outstanding, and is sent
again after that time, and by chance later, so that not all who were refused come back at once: up to twice as late the
first time, and after each further refusal up to twice as much later as the time before.
"""

from __future__ import annotations

import heapq

from hpcserve.types import Counter

LONGEST_S = 5.0
"""A refused request is sent again at most so much later than the daemon has asked for, or at most twice as late."""
MOST_DOUBLINGS = 30


class Caller:
    """The requests of one client process. ``call`` is whatever the client keeps with a request.

    ``due_at`` is when :meth:`due` has something to tell, infinite while no request waits to be sent again.
    """

    def __init__(self) -> None:
        self._next = 1
        self._outstanding: dict[Counter, tuple[object, float]] = {}
        self._acks: list[Counter] = []
        self._later: list[tuple[float, Counter]] = []
        self._refusals: dict[Counter, tuple[int, float]] = {}  # how many, and when it is sent again
        self.due_at = float("inf")

    def __len__(self) -> int:
        return len(self._outstanding)

    @property
    def floor(self) -> int:
        """Every id below it is settled."""
        return next(iter(self._outstanding), self._next)

    @property
    def outstanding(self) -> tuple[Counter, ...]:
        """What is waited for, oldest first."""
        return tuple(self._outstanding)

    def start(self, call: object, deadline: float) -> Counter:
        """A new request; ``deadline`` in the client's monotonic seconds, infinite without one."""
        id = Counter(self._next)
        self._next += 1
        self._outstanding[id] = (call, deadline)
        return id

    def get(self, id: Counter) -> object | None:
        """The call of an outstanding request, or None when it is settled."""
        found = self._outstanding.get(id)
        return None if found is None else found[0]

    def settle(self, id: Counter) -> object | None:
        """The request is answered or given up. Returns its call, or None when it was settled before."""
        found = self._outstanding.pop(id, None)
        if found is None:
            return None
        self._acks.append(id)
        if self._refusals:
            self._refusals.pop(id, None)
        return found[0]

    def expired(self, now: float) -> list[Counter]:
        """The outstanding requests whose deadline is over."""
        return [id for id, (_, deadline) in self._outstanding.items() if deadline <= now]

    def next_deadline(self) -> float:
        """The earliest deadline of all, infinite without one."""
        return min((deadline for _, deadline in self._outstanding.values()), default=float("inf"))

    def refused(self, id: Counter, after_s: float, late: float, now: float) -> bool:
        """The broker had no room for a request, and said when to ask again.

        Args:
            id: The request.
            after_s: Not before so many seconds.
            late: A random number from 0 to 1.
            now: Monotonic seconds.

        Returns:
            Whether it is sent again; False: there would be no time left for an answer.
        """
        found = self._outstanding.get(id)
        if found is None:
            return False
        left_s = found[1] - after_s - now  # as long again as the daemon has asked for is left for the answer
        if left_s < after_s:
            return False
        before, _ = self._refusals.get(id, (0, 0.0))
        more_s = max(after_s, min(after_s * 2.0 ** min(before, MOST_DOUBLINGS), LONGEST_S))
        at = now + after_s + late * min(more_s, left_s - after_s)
        self._refusals[id] = before + 1, at
        heapq.heappush(self._later, (at, id))
        self.due_at = self._later[0][0]
        return True

    def due(self, now: float) -> list[Counter]:
        """The refused requests that are to be sent again now; each is named once."""
        ids = []
        while self._later and self._later[0][0] <= now:
            at, id = heapq.heappop(self._later)
            if self._refusals.get(id, (0, 0.0))[1] == at:  # it is neither settled nor, meanwhile, refused anew
                ids.append(id)
        self.due_at = self._later[0][0] if self._later else float("inf")
        return ids

    @property
    def owes_ack(self) -> bool:
        """Whether something was settled that the broker has not been told."""
        return bool(self._acks)

    def take_acks(self) -> tuple[int, tuple[Counter, ...]]:
        """The floor, and the ids above it that were settled since it was last taken."""
        floor = self.floor
        if not self._acks:
            return floor, ()
        acks = tuple(id for id in self._acks if id > floor)
        self._acks = []
        return floor, acks
