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

MOST_PRIORITIES = 64
"""Of more priorities than these at a time none is told from another when it is asked what waits before a request."""

Item = tuple[float, int, Entry]
"""Deadline, place, request."""


class Load:
    """How many requests of one priority wait, and their bytes."""

    __slots__ = ("bytes", "requests")

    def __init__(self) -> None:
        self.requests = self.bytes = 0


class RequestQueue:
    """The queued requests of one deployment."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[Session, list[Item]]] = {}
        self._urgencies: list[int] = []  # minus the priorities that there are, in order
        self._suspects: list[tuple[int, float, int, Entry]] = []
        self._deadlines: list[Item] = []
        self._items = 0
        self._loads: dict[int, Load] = {}
        self.count = 0
        self.bytes = 0

    def push(self, entry: Entry) -> None:
        """Adds a request that has become QUEUED."""
        if entry.suspect:
            heapq.heappush(self._suspects, (-entry.priority, entry.deadline, entry.place, entry))
        else:
            self._add(entry)
        end = _end(entry)
        if end != NEVER:
            heapq.heappush(self._deadlines, (end, entry.place, entry))
        load = self._loads.get(-entry.priority)
        if load is None:
            load = self._loads[-entry.priority] = Load()
        load.requests += 1
        load.bytes += entry.size_bytes
        self.count += 1
        self.bytes += entry.size_bytes
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
        self._deadlines = sorted((_end(each), each.place, each) for each in queued if _end(each) != NEVER)

    def _clear(self) -> None:
        self._levels.clear()
        self._urgencies.clear()
        self._suspects.clear()
        self._deadlines.clear()
        self._items = 0

    def drop(self, entry: Entry) -> None:
        """Notes that a request of the queue is not QUEUED any more. If it was the next, its session's turn is over."""
        self.count -= 1
        self.bytes -= entry.size_bytes
        load = self._loads[-entry.priority]
        load.requests -= 1
        load.bytes -= entry.size_bytes
        if not load.requests:
            del self._loads[-entry.priority]
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

    def before(self, session: Session, priority: int) -> tuple[int, int]:
        """About how many requests would be given out before a new one, and their bytes.

        Those of a higher priority all would; of the others of its own as many as the session itself has there, and one
        more of each other session, in turn. Their bytes count in full.
        """
        urgency = -priority
        if len(self._loads) > MOST_PRIORITIES:
            return self.count, self.bytes
        requests = size_bytes = 0
        for each, load in self._loads.items():
            if each < urgency:
                requests += load.requests
                size_bytes += load.bytes
        mine = self._loads.get(urgency)
        if mine is not None:
            level = self._levels.get(urgency) or OrderedDict()
            own = len(level.get(session, ()))
            others = len(level) - (session in level)
            requests += min(mine.requests, own + (own + 1) * others)
            size_bytes += mine.bytes
        return requests, size_bytes

    def expired(self, now: float) -> list[Entry]:
        """The queued requests whose deadline is over, or that have waited too long, each once."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            entry = heapq.heappop(self._deadlines)[2]
            if entry.state is QUEUED and _end(entry) <= now:
                found.append(entry)
        return list(dict.fromkeys(found))

    def next_deadline(self) -> float:
        """When the first of the queued requests is to be given up, infinite without one."""
        while self._deadlines and self._deadlines[0][2].state is not QUEUED:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else NEVER

    def all(self) -> list[Entry]:
        """Every queued request, once, in no order."""
        plain = (item[2] for level in self._levels.values() for waiting in level.values() for item in waiting)
        suspect = (item[3] for item in self._suspects)
        return list(dict.fromkeys(entry for entry in (*plain, *suspect) if entry.state is QUEUED))


def _end(entry: Entry) -> float:
    """When a request is not to be run any more."""
    return min(entry.deadline, entry.patience)
