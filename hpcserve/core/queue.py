"""The order in which a deployment's requests go out: priority, then deadline, then arrival.

A request that comes back (its replica died) keeps its place. Taking one out of the middle is lazy: an
entry that is not QUEUED any more is passed over when its turn comes. When such leftovers are the greater
part they are swept out, so that a queue that never runs empty doesn't grow.
"""

from __future__ import annotations

import heapq

from hpcserve.core.ledger import NEVER, QUEUED, Entry

LEFTOVERS = 64
"""So many leftovers are never worth a sweep."""


class RequestQueue:
    """The queued requests of one deployment."""

    def __init__(self) -> None:
        self._order: list[tuple[int, float, int, Entry]] = []
        self._suspects: list[tuple[int, float, int, Entry]] = []
        self._deadlines: list[tuple[float, int, Entry]] = []
        self.count = 0

    def push(self, entry: Entry) -> None:
        """Adds a request that has become QUEUED."""
        item = (-entry.priority, entry.deadline, entry.place, entry)
        heapq.heappush(self._suspects if entry.suspect else self._order, item)
        if entry.deadline != NEVER:
            heapq.heappush(self._deadlines, (entry.deadline, entry.place, entry))
        self.count += 1
        most = 2 * self.count + LEFTOVERS
        if len(self._order) > most or len(self._deadlines) > most:
            self._sweep()

    def _sweep(self) -> None:
        queued = self.all()
        # A sorted list is a heap.
        items = sorted((-each.priority, each.deadline, each.place, each) for each in queued)
        self._order = [item for item in items if not item[3].suspect]
        self._suspects = [item for item in items if item[3].suspect]
        self._deadlines = sorted((each.deadline, each.place, each) for each in queued if each.deadline != NEVER)

    def drop(self, entry: Entry) -> None:
        """Notes that a request of the queue is not QUEUED any more."""
        self.count -= 1
        if not self.count:
            self._order.clear()
            self._suspects.clear()
            self._deadlines.clear()

    def peek(self) -> Entry | None:
        """The next request that may run beside others, or None."""
        return self._head(self._order, suspect=False)

    def peek_suspect(self) -> Entry | None:
        """The next request that must run alone, or None."""
        return self._head(self._suspects, suspect=True)

    @staticmethod
    def _head(heap: list[tuple[int, float, int, Entry]], *, suspect: bool) -> Entry | None:
        while heap:
            entry = heap[0][3]
            if entry.state is QUEUED and entry.suspect is suspect:
                return entry
            heapq.heappop(heap)
        return None

    def expired(self, now: float) -> list[Entry]:
        """The queued requests whose deadline is over, each once."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            entry = heapq.heappop(self._deadlines)[2]
            if entry.state is QUEUED and entry.deadline <= now:
                found.append(entry)
        return list(dict.fromkeys(found))

    def next_deadline(self) -> float:
        """The earliest deadline among the queued requests, infinite without one."""
        while self._deadlines and self._deadlines[0][2].state is not QUEUED:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else NEVER

    def all(self) -> list[Entry]:
        """Every queued request, once, in no order."""
        items = (*self._order, *self._suspects)
        return list(dict.fromkeys(item[3] for item in items if item[3].state is QUEUED))
