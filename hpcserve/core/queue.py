"""The order in which a deployment's requests go out: priority, then the sessions in turn, then deadline, then arrival.

Of the sessions that have requests of the highest priority each gives one in its turn, so that a client with ten
thousand requests is served beside one with a single request, and not before it. What a session's own requests are
worth to it, it says by their deadlines.

A request that comes back (its replica died) keeps its place in its session. Taking one out of the middle is lazy: an
entry that is not QUEUED any more is passed over when its turn comes. When such leftovers are the greater part they are
swept out, so that a queue that never runs empty doesn't grow.
"""

from __future__ import annotations

import bisect
import heapq
from collections import OrderedDict

from hpcserve.core.ledger import NEVER, QUEUED, RUNNING, Entry
from hpcserve.core.sessions import Session

LEFTOVERS = 64
"""So many leftovers are never worth a sweep."""

Item = tuple[float, int, Entry]
"""Deadline, place, request."""


class RequestQueue:
    """The queued requests of one deployment."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[Session, list[Item]]] = {}
        self._urgencies: list[int] = []  # minus the priorities that there are, in order
        self._suspects: list[tuple[int, float, int, Entry]] = []
        self._deadlines: list[Item] = []
        self._items = 0
        self.count = 0

    def push(self, entry: Entry) -> None:
        """Adds a request that has become QUEUED."""
        if entry.suspect:
            heapq.heappush(self._suspects, (-entry.priority, entry.deadline, entry.place, entry))
        else:
            self._add(entry)
        if entry.deadline != NEVER:
            heapq.heappush(self._deadlines, (entry.deadline, entry.place, entry))
        self.count += 1
        most = 2 * self.count + LEFTOVERS
        if self._items > most or len(self._deadlines) > most:
            self._sweep()

    def _add(self, entry: Entry) -> None:
        urgency = -entry.priority
        level = self._levels.get(urgency)
        if level is None:
            level = self._levels[urgency] = OrderedDict()
            bisect.insort(self._urgencies, urgency)
        item = (entry.deadline, entry.place, entry)
        waiting = level.get(entry.session)
        if waiting is None:
            level[entry.session] = [item]
        else:
            heapq.heappush(waiting, item)
        self._items += 1

    def _sweep(self) -> None:
        queued = self.all()
        turns = {urgency: list(level) for urgency, level in self._levels.items()}
        self._clear()
        for urgency, sessions in turns.items():
            self._levels[urgency] = OrderedDict((session, []) for session in sessions)
        self._urgencies = sorted(self._levels)
        for each in queued:
            if not each.suspect:
                self._add(each)
        # A sorted list is a heap.
        self._suspects = sorted((-each.priority, each.deadline, each.place, each) for each in queued if each.suspect)
        self._deadlines = sorted((each.deadline, each.place, each) for each in queued if each.deadline != NEVER)

    def _clear(self) -> None:
        self._levels.clear()
        self._urgencies.clear()
        self._suspects.clear()
        self._deadlines.clear()
        self._items = 0

    def drop(self, entry: Entry) -> None:
        """Notes that a request of the queue is not QUEUED any more. If it was the next, its session's turn is over."""
        self.count -= 1
        if not self.count:
            self._clear()
            return
        level = self._levels.get(-entry.priority)
        if level:
            session, waiting = next(iter(level.items()))
            if waiting and waiting[0][2] is entry:
                heapq.heappop(waiting)
                self._items -= 1
                if not waiting:
                    del level[session]
                elif entry.state is RUNNING:  # taken back, it has cost its session no turn
                    level.move_to_end(session)

    def peek(self) -> Entry | None:
        """The next request that may run beside others, or None."""
        while self._urgencies:
            level = self._levels[self._urgencies[0]]
            while level:
                session, waiting = next(iter(level.items()))
                while waiting:
                    entry = waiting[0][2]
                    if entry.state is QUEUED and not entry.suspect:
                        return entry
                    heapq.heappop(waiting)
                    self._items -= 1
                del level[session]
            del self._levels[self._urgencies.pop(0)]
        return None

    def peek_suspect(self) -> Entry | None:
        """The next request that must run alone, or None."""
        while self._suspects:
            entry = self._suspects[0][3]
            if entry.state is QUEUED and entry.suspect:
                return entry
            heapq.heappop(self._suspects)
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
        plain = (item[2] for level in self._levels.values() for waiting in level.values() for item in waiting)
        suspect = (item[3] for item in self._suspects)
        return list(dict.fromkeys(entry for entry in (*plain, *suspect) if entry.state is QUEUED))
