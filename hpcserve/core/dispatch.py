"""What is refused, what waits, and which replica is given what.

Order and choice are the queue's and :class:`hpcserve.core.replicas.LeastLoaded`'s; here they are put together.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hpcserve.core import actions as act
from hpcserve.core.books import Books
from hpcserve.core.lanes import Lane
from hpcserve.core.ledger import GIVEN, NEVER, Entry, Event
from hpcserve.core.longest import closes_at
from hpcserve.core.replicas import Replica
from hpcserve.core.routes import RoutingTable
from hpcserve.core.sessions import Session
from hpcserve.errors import (
    DeadlineExceeded,
    HpcserveError,
    InvalidInput,
    OutcomeUnknown,
    Overloaded,
    UnknownEndpoint,
)
from hpcserve.types import Counter

MAX_UNSETTLED = 250_000
"""Most requests of one session that it has not settled, answered ones included."""

MAX_GAPS = 100_000
"""Most gaps among the ids that a session has settled above its floor."""


class Limits(NamedTuple):
    """What the exchange is configured with. Bytes and seconds, as in the site file's tables."""

    broker_bytes: int
    session_bytes: int
    max_queued: int
    recovery_grace_s: float
    session_linger_s: float
    hang_grace_s: float
    census_s: float = 30.0
    unreachable_s: float = 4.0


class Call(msgspec.Struct, frozen=True, gc=False):
    """A request as it came: ``body`` is the process's own, ``size_bytes`` what it counts in the budgets."""

    id: Counter
    endpoint: str
    method: str
    body: object
    size_bytes: int
    remaining_ms: int | None
    priority: int


class Dispatch(Books):
    """The books, and the giving out of what is queued in them."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits.session_bytes)
        self.limits = limits
        self._now = now
        self._table = RoutingTable()

    def _fits(self, session: Session, call: Call) -> bool:
        """Whether there is room for a request; :meth:`_check` says what is wrong if not."""
        limits, size_bytes = self.limits, call.size_bytes
        return (
            len(session.entries) < MAX_UNSETTLED
            and session.held_bytes + size_bytes <= limits.session_bytes
            and self.held_bytes + size_bytes <= limits.broker_bytes
            and self.queued < limits.max_queued
        )

    def _check(self, session: Session, call: Call) -> None:
        """Refuses a request that there is no room for."""
        limits = self.limits
        most = min(limits.session_bytes, limits.broker_bytes)
        if call.size_bytes > most:
            raise InvalidInput(
                f"a request of {call.size_bytes} bytes can never be taken: at most {most} bytes fit into this daemon's "
                "budgets (budgets.session_bytes, budgets.broker_bytes); send less at a time"
            )
        if len(session.entries) >= MAX_UNSETTLED:
            raise Overloaded(
                f"this client has {MAX_UNSETTLED} requests that it has not settled, the most of one", retry_after_s=1.0
            )
        if session.held_bytes + call.size_bytes > limits.session_bytes:
            what, held, limit = "session", session.held_bytes, limits.session_bytes
        elif self.held_bytes + call.size_bytes > limits.broker_bytes:
            what, held, limit = "daemon", self.held_bytes, limits.broker_bytes
        elif self.queued >= limits.max_queued:
            raise Overloaded(f"{self.queued} requests are queued, the most this daemon takes", retry_after_s=1.0)
        else:
            return
        raise Overloaded(
            f"a request of {call.size_bytes} bytes does not fit: the {what} holds {held} of {limit} bytes of "
            "unsettled requests and results",
            retry_after_s=0.1,
        )

    def _refuse(self, session: Session, id: Counter, error: HpcserveError) -> None:
        self.counts.refused += 1
        entry = session.entries.get(id)
        if entry is not None and error.retry_after_s is None:
            entry.error = error
            self.apply(entry, Event.REFUSED)
        elif session.connection is not None:
            self._actions.append(act.Tell(session.connection, session.id, id, error))

    def _fail_queues(self) -> None:
        """Answers what waits for a deployment that is gone, or that cannot start."""
        for name, lane in list(self.lanes.items()):
            deployment = self._table.deployments.get(name)
            error: HpcserveError | None = UnknownEndpoint(f"deployment {name!r} was taken down while requests waited")
            if deployment is not None:
                error = deployment.error
            if error is not None:
                for entry in lane.queue.all():
                    entry.error = error
                    self.apply(entry, Event.REFUSED)
            if deployment is None:
                del self.lanes[name]

    def _burn(self, entry: Entry) -> None:
        entry.error = OutcomeUnknown(
            "the replica or the daemon died while this request may have run, and its method is declared "
            "idempotent = false: it is not run again"
        )
        self.apply(entry, Event.BURNED)

    def _give_up(self, entry: Entry, workers: int | None = None) -> None:
        """A queued request is not run: its deadline is over, or it has waited for longer than its deployment allows.

        Of the latter, which may come back, nothing is kept, as of any other that was refused.

        Args:
            entry: The request.
            workers: How many replicas its deployment has that take work, if that was counted.
        """
        lane = entry.lane
        assert lane is not None, "a request that is queued has its route"
        if entry.deadline <= self._now:
            lane.expired += 1
            why = "" if workers != 0 else f": deployment {lane.name!r} has no replica that takes work (hpcserve status)"
            entry.error = DeadlineExceeded(f"the deadline passed while the request was queued; it did not run{why}")
            self.apply(entry, Event.REFUSED)
            return
        lane.refused += 1
        self.counts.refuse(entry)
        session = entry.session
        if session.connection is not None:
            self._actions.append(act.Tell(session.connection, session.id, entry.id, lane.too_long()))
        self.apply(entry, Event.ACKED)

    def _rest(self, replica: Replica) -> float:
        """Whether a replica is to get new work: not if it is to end, and not what it would not finish before that.

        Returns:
            When to look again.
        """
        closes = replica.ends_at
        if closes != NEVER:
            closes = closes_at(closes, replica.known_since, replica.lane.longest.s)
        resting = replica.retiring or self._now >= closes
        if replica.resting != resting:
            replica.resting = resting
            replica.lane.update(replica)
        return closes if closes > self._now else NEVER

    def _took(self, lane: Lane, seconds: float) -> None:
        """A request was answered so long after it had been given out: what ends sooner gets nothing more."""
        if lane.longest.took(seconds):
            for replica in self.replicas.values():
                if replica.lane is lane and replica.ends_at != NEVER:
                    self._rest(replica)

    def _pump(self, lane: Lane) -> None:
        """Gives out what is queued in a lane, while a replica has credit.

        A suspect needs an idle replica; until one is idle nothing else is given, so that one soon is. An urgent request
        may be given beyond the credit.
        """
        queue, load = lane.queue, lane.load
        while queue.count:
            entry = queue.peek_suspect()
            replica = load.pick() if entry is None else load.pick_idle(self.streams_at if self.relays else None)
            entry = entry or queue.peek()
            if entry is None:
                return
            if entry.deadline <= self._now or entry.patience <= self._now:
                self._give_up(entry)
                continue
            if replica is None and entry.priority > 0 and not entry.suspect:
                replica = lane.pick_reserved(self.replicas.values())
            if replica is None:
                return
            entry.patience = NEVER  # should it come back, it is not turned away
            self.apply(entry, GIVEN, replica)
            if entry.suspect:
                replica.exclusive = True
                lane.discard(replica)
            self._send(entry, replica)

    def _send(self, entry: Entry, replica: Replica) -> None:
        """The request was given to this replica: it goes out with the releases that wait for it."""
        connection = replica.connection
        assert connection is not None, "a replica without a connection has no credit"
        replica.seq = entry.seq = replica.seq + 1
        entry.given_at = self._now
        remaining_ms = None
        if entry.deadline != NEVER:
            remaining_ms = max(1, int((entry.deadline - self._now) * 1000))
        self._actions.append(act.Give(connection, entry, entry.seq, remaining_ms, replica.take_releases()))
