"""The broker's decisions: who is served, refused, given what, asked again (design §5 and §6).

Events come in as method calls with ``now`` (monotonic seconds); what is to be done comes out of
:meth:`Exchange.take` as frozen actions. What an event does to a single request stands in the table of
:mod:`hpcserve.core.ledger`; here are the refusals, the recovery and the choice of the replica.

Does not decide who may call (admission and the controller do), nor how many replicas there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hpcserve.core import actions as act
from hpcserve.core.books import Books
from hpcserve.core.ledger import UNFINISHED, Entry, Event, State
from hpcserve.core.replicas import LeastLoaded, Replica
from hpcserve.core.routes import Deployment, RoutingTable
from hpcserve.core.sessions import Session
from hpcserve.errors import (
    DeadlineExceeded,
    HpcserveError,
    OutcomeUnknown,
    Overloaded,
    PoisonRequest,
    ProtocolError,
    UnknownEndpoint,
)
from hpcserve.types import Counter, DeploymentName, EndpointName, ReplicaId, RequestKey, SessionId

MAX_AHEAD = 1_000_000
"""How far above its floor a session's ids and acknowledgements may be."""


class Limits(NamedTuple):
    """What the exchange is configured with. Bytes and seconds, as in the site file's tables."""

    broker_bytes: int
    session_bytes: int
    max_queued: int
    recovery_grace_s: float
    session_linger_s: float
    hang_grace_s: float
    census_s: float = 30.0


class Call(NamedTuple):
    """A request as it came: ``body`` is the process's own, ``size_bytes`` what it counts in the budgets."""

    id: Counter
    endpoint: str
    method: str
    body: object
    size_bytes: int
    remaining_ms: int | None
    priority: int


class Exchange(Books):
    """All requests of one broker, in one epoch."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits.session_bytes)
        self.limits = limits
        self.recovered = False
        self._began = now
        self._now = now
        self._table = RoutingTable()
        self._roster_known = False
        self._places = 0
        self._by_connection: dict[bytes, Session] = {}
        self._replica_by_connection: dict[bytes, Replica] = {}

    def session_of(self, connection: bytes) -> Session | None:
        """The session that resumed on this connection."""
        return self._by_connection.get(connection)

    def replica_of(self, connection: bytes) -> Replica | None:
        """The replica that sent its INVENTORY on this connection."""
        return self._replica_by_connection.get(connection)

    # --- clients ------------------------------------------------------------------------------------

    def resume(
        self,
        session_id: SessionId,
        connection: bytes,
        *,
        identity: str,
        floor: int,
        outstanding: tuple[Counter, ...],
        now: float,
    ) -> Session:
        """A client said who it is and what it still waits for.

        Raises:
            ProtocolError: It claims more than a session may.
        """
        if any(not floor <= id <= floor + MAX_AHEAD for id in outstanding):
            raise ProtocolError(f"RESUME: outstanding ids must lie between the floor and {MAX_AHEAD} above it")
        self._now = now
        session = self.session(session_id, now)
        # A second RESUME on one connection may be an old one: it knows nothing of what was sent after it.
        last = max(outstanding, default=floor - 1) if session.connection == connection else float("inf")
        for each in (session, self._by_connection.get(connection)):
            if each is not None:
                self._detach(each)
        known, session.resumed = session.resumed, True
        session.connection, session.identity = connection, identity
        session.parked.clear()
        self._by_connection[connection] = session
        wanted = set(outstanding)
        over = tuple(id for id in session.entries if id not in wanted and id <= last)
        self.settle(session, session.settle(floor, over))
        for id in outstanding:
            if not session.is_settled(id):
                self._seek(self.entry(session, id), known)
        return session

    def _seek(self, entry: Entry, known: bool) -> None:
        """A client waits for this request. ``known``: its session has been here since the epoch began,
        so a request that is not in the ledger never arrived."""
        if entry.state is State.SETTLED:
            entry.maybe_ran = not known
        elif entry.state is State.LEFT:
            entry.maybe_ran = True
        self.apply(entry, Event.RESUMED)
        if self.recovered and entry.state is State.SOUGHT:
            self.apply(entry, Event.RECOVERED)

    def request(self, session: Session, call: Call, now: float) -> None:
        """A client sent a request. One that is known already changes nothing.

        Before the controller has said what is served, the request is only noted, to be asked for later.
        """
        self._now = now
        entry = session.entries.get(call.id)
        if entry is None:
            if session.is_settled(call.id):
                return
        elif entry.state is not State.WANTED:
            return
        try:
            self._check(session, call)
            if not self._roster_known:
                self.apply(self.entry(session, call.id), Event.RESUMED)
                return
            name, idempotent = self._table.route(call.endpoint, call.method)
        except HpcserveError as error:
            self._refuse(session, call.id, error)
            return
        if entry is None:
            entry = session.entries[call.id] = Entry(session, call.id, State.SETTLED)
        else:
            entry.attempt = 1
        self._places += 1
        entry.place = self._places
        entry.deployment, entry.idempotent = name, idempotent
        entry.body, entry.priority = call.body, call.priority
        if call.remaining_ms is not None:
            entry.deadline = now + call.remaining_ms / 1000
        self.account(entry, call.size_bytes)
        self.counts.requests += 1
        self.apply(entry, Event.REQUEST)
        if entry.maybe_ran and not idempotent:
            self._burn(entry)
        self._pump(name)

    def ack(self, session: Session, floor: int, acks: tuple[Counter, ...], now: float) -> None:
        """A client settled requests: it has their answers, or does not want them.

        Raises:
            ProtocolError: It acknowledges more than it can have asked.
        """
        self._now = now
        if floor == session.floor and not acks:
            return
        if floor > session.floor + MAX_AHEAD or len(session.settled) + len(acks) > MAX_AHEAD:
            raise ProtocolError(f"acknowledgements more than {MAX_AHEAD} above the floor {session.floor}")
        self.settle(session, session.settle(floor, acks))

    def bye(self, session: Session, now: float) -> None:
        """A session is over: nothing of it is waited for. It is forgotten when no replica holds any of it.

        Should its client come back after all, it is as if it had not been here in this epoch.
        """
        self._now = now
        self._detach(session)
        session.resumed = False
        self.settle(session, list(session.entries))
        if not session.entries:
            self.sessions.pop(session.id, None)

    def client_gone(self, connection: bytes, now: float) -> None:
        """A client's connection is not there any more; the session lingers."""
        self._now = now
        session = self._by_connection.get(connection)
        if session is not None:
            self._detach(session)

    # --- replicas -----------------------------------------------------------------------------------

    def inventory(
        self,
        replica_id: ReplicaId,
        connection: bytes,
        *,
        unfinished: tuple[RequestKey, ...],
        finished: tuple[RequestKey, ...],
        fence: int,
        credit: tuple[int, int],
        now: float,
    ) -> bool:
        """A replica told what it holds. ``fence`` is 0 when it speaks of another epoch than this one.

        Returns:
            Whether the replica is on the roster; one that is not has no business here.
        """
        self._now = now
        replica = self.replicas.get(replica_id)
        if replica is None:
            return False
        fresh = replica.connection != connection
        if fresh:
            if replica.connection is not None:
                self._replica_by_connection.pop(replica.connection, None)
            replica.connection = connection
            self._replica_by_connection[connection] = replica
        replica.reported = True
        replica.credit_requests, replica.credit_bytes = credit
        replica.unsure = False
        for keys, event in ((unfinished, Event.LISTED), (finished, Event.LISTED_DONE)):
            for session_id, id in keys:
                entry = self.entry(self.session(session_id, now), id)
                self.apply(entry, event, replica)
                if event is Event.LISTED and not (entry.replica is replica and UNFINISHED[entry.state]):
                    replica.unsure = True
        listed = {*unfinished, *finished}
        for key, entry in list(replica.entries.items()):
            if key not in listed and entry.seq <= fence:
                self._unlist(entry)
        if fresh and replica.seq > fence:
            self._census(replica)
        self.load(replica.deployment).update(replica)
        self._check_recovered()
        self._pump(replica.deployment)
        return True

    def _unlist(self, entry: Entry) -> None:
        """Its replica does not hold this request. What was finished there has run."""
        if entry.state in (State.HELD, State.KEPT):
            entry.maybe_ran = True
        if entry.state is State.RUNNING:
            self.counts.requeued += 1
        self.apply(entry, Event.UNLISTED)

    def answered(
        self,
        replica: Replica,
        key: RequestKey,
        *,
        body: object,
        size_bytes: int,
        credit: tuple[int, int],
        now: float,
    ) -> None:
        """A replica sent a result."""
        self._now = now
        replica.credit_requests, replica.credit_bytes = credit
        replica.answered += 1
        entry = self.entry(self.session(key[0], now), key[1])
        before = entry.state
        self.result(replica, entry, body, size_bytes)
        if entry.state is State.DONE and before is not State.DONE:
            self.counts.answered += 1
        self.load(replica.deployment).update(replica)
        self._pump(replica.deployment)

    def dropped(self, replica: Replica, key: RequestKey, *, credit: tuple[int, int], now: float) -> None:
        """A replica let go, before it had begun it, of a request that it was told to release.

        Where somebody waits for it all the same only an INVENTORY is proof: this word may be an old one.
        """
        self._now = now
        replica.credit_requests, replica.credit_bytes = credit
        session = self.sessions.get(key[0])
        entry = None if session is None else session.entries.get(key[1])
        if entry is not None and entry.replica is replica:
            if entry.state is State.ABANDONED:
                self.apply(entry, Event.UNLISTED)
            elif UNFINISHED[entry.state]:
                self._census(replica)
        self.load(replica.deployment).update(replica)
        self._pump(replica.deployment)

    def credit(self, replica: Replica, credit: tuple[int, int], now: float) -> None:
        """A replica wants to hold more, or less."""
        self._now = now
        replica.credit_requests, replica.credit_bytes = credit
        self.load(replica.deployment).update(replica)
        self._pump(replica.deployment)

    def replica_gone(self, connection: bytes, now: float) -> None:
        """A replica's connection is not there any more. That says nothing of the replica itself."""
        self._now = now
        replica = self._replica_by_connection.pop(connection, None)
        if replica is not None and replica.connection == connection:
            replica.connection = None
            self.load(replica.deployment).discard(replica)

    # --- the controller -----------------------------------------------------------------------------

    def route(
        self,
        endpoints: Mapping[EndpointName, DeploymentName],
        deployments: Iterable[Deployment],
        *,
        crashed: frozenset[ReplicaId] = frozenset(),
        retiring: frozenset[ReplicaId] = frozenset(),
        now: float,
    ) -> None:
        """The whole routing table anew. A replica that is not in it is dead."""
        self._now = now
        self._table = RoutingTable(endpoints, {each.name: each for each in deployments})
        homes = {id: each.name for each in self._table.deployments.values() for id in each.replicas}
        for id, replica in list(self.replicas.items()):
            if id not in homes:
                self._lose(replica, crashed=id in crashed)
        for id, name in homes.items():
            replica = self.replicas.setdefault(id, Replica(id, name))
            replica.retiring = id in retiring
            self.load(name).update(replica)
        self._fail_queues()
        if not self._roster_known:
            self._roster_known = True
            self._began = now
        self._check_recovered()
        for name in list(self.queues):
            self._pump(name)

    def _fail_queues(self) -> None:
        """Answers what waits for a deployment that is gone, or that cannot start."""
        for name, queue in list(self.queues.items()):
            deployment = self._table.deployments.get(name)
            error: HpcserveError | None = UnknownEndpoint(f"deployment {name!r} was taken down while requests waited")
            if deployment is not None:
                error = deployment.error
            if error is not None:
                for entry in queue.all():
                    entry.error = error
                    self.apply(entry, Event.REFUSED)
            if deployment is None:
                del self.queues[name]

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Time passed. Returns when it must be called again, at the latest."""
        self._now = now
        wake = now + 60.0
        if not self.recovered:
            self._check_recovered()
            wake = min(wake, max(now + 1.0, self._began + self.limits.recovery_grace_s))
        for queue in self.queues.values():
            for entry in queue.expired(now):
                self._expire(entry)
            wake = min(wake, queue.next_deadline())
        for replica in self.replicas.values():
            if replica.entries:
                self._watch(replica)
                wake = min(wake, now + 1.0)
            elif replica.retiring:
                self._actions.append(act.ReportIdle(replica.id))
                wake = min(wake, now + 1.0)
        for session in list(self.sessions.values()):
            if session.connection is None and now - session.away_since >= self.limits.session_linger_s:
                self.bye(session, now)
        return wake

    def flush(self) -> None:
        """Sends the releases that no work has carried along."""
        for replica in self.replicas.values():
            if replica.releases and replica.connection is not None:
                self._actions.append(act.Release(replica.connection, replica.take_releases()))

    def probe(self) -> None:
        """Has the process find out which clients have gone without a word."""
        self._actions.extend(
            act.Probe(session.connection) for session in self.sessions.values() if session.connection is not None
        )

    # --- inside -------------------------------------------------------------------------------------

    def _detach(self, session: Session) -> None:
        if session.connection is not None:
            self._by_connection.pop(session.connection, None)
            session.connection = None
            session.away_since = self._now

    def _check(self, session: Session, call: Call) -> None:
        """Refuses a request that there is no room for."""
        limits = self.limits
        if call.id > session.floor + MAX_AHEAD:
            raise ProtocolError(f"request id {call.id} is too far above the floor {session.floor}")
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
            retry_after_s=0.1 if call.size_bytes <= limit else None,
        )

    def _refuse(self, session: Session, id: Counter, error: HpcserveError) -> None:
        self.counts.refused += 1
        entry = session.entries.get(id)
        if entry is not None:
            entry.error = error
            self.apply(entry, Event.REFUSED)
        elif session.connection is not None:
            self._actions.append(act.Tell(session.connection, session.id, id, error))

    def _burn(self, entry: Entry) -> None:
        entry.error = OutcomeUnknown(
            "the replica or the daemon died while this request may have run, and its method is declared "
            "idempotent = false: it is not run again"
        )
        self.apply(entry, Event.BURNED)

    def _expire(self, entry: Entry) -> None:
        entry.error = DeadlineExceeded("the deadline passed while the request was queued; it did not run")
        self.apply(entry, Event.REFUSED)

    def _lose(self, replica: Replica, *, crashed: bool) -> None:
        """The replica is dead. What it had unfinished goes back to the queue; see design §6."""
        self.load(replica.deployment).discard(replica)
        if replica.connection is not None:
            self._replica_by_connection.pop(replica.connection, None)
            replica.connection = None
        del self.replicas[replica.id]
        alone = replica.exclusive and replica.waiting == 1 and not replica.unsure
        for entry in list(replica.entries.values()):
            unfinished = UNFINISHED[entry.state]
            if crashed and alone and unfinished and entry.suspect:
                entry.error = PoisonRequest(f"a second replica died of this request: {replica.id} ran nothing else")
                self.apply(entry, Event.CONVICTED)
            elif not entry.idempotent and entry.state is not State.DONE:
                self._burn(entry)
            else:
                entry.maybe_ran = True
                entry.suspect = entry.suspect or (crashed and unfinished)
                self.counts.requeued += entry.state is State.RUNNING
                self.apply(entry, Event.LOST)

    def _census(self, replica: Replica) -> None:
        if replica.connection is not None:
            replica.asked_at = self._now
            self._actions.append(act.Census(replica.connection, replica.seq))

    def _watch(self, replica: Replica) -> None:
        """Looks at the oldest request of a replica: is it long overdue, or was it perhaps lost on the way?"""
        oldest = next((each for each in replica.entries.values() if UNFINISHED[each.state]), None)
        if oldest is None:
            return
        overdue_s = self._now - oldest.deadline
        if overdue_s > self.limits.hang_grace_s:
            self._actions.append(act.ReportHung(replica.id, overdue_s))
        if self._now - max(oldest.given_at, replica.asked_at) > self.limits.census_s:
            self._census(replica)

    def _check_recovered(self) -> None:
        """Ends the recovery when every known replica has reported, or the grace since they are known is over."""
        if self.recovered or not self._roster_known:
            return
        reported = all(each.reported for each in self.replicas.values())
        if not reported and self._now - self._began < self.limits.recovery_grace_s:
            return
        self.recovered = True
        for session in self.sessions.values():
            for entry in list(session.entries.values()):
                if entry.state is State.SOUGHT:
                    self.apply(entry, Event.RECOVERED)

    def _pump(self, name: DeploymentName) -> None:
        """Gives out what is queued for a deployment, while a replica has credit.

        A suspect needs an idle replica; until one is idle nothing else is given, so that one soon is.
        """
        queue = self.queues.get(name)
        if queue is None or not queue.count:
            return
        load = self.load(name)
        while queue.count:
            entry = queue.peek_suspect()
            replica = load.pick() if entry is None else load.pick_idle()
            entry = entry or queue.peek()
            if entry is None:
                return
            if entry.deadline <= self._now:
                self._expire(entry)
            elif replica is None:
                return
            else:
                self._give(entry, replica, load)

    def _give(self, entry: Entry, replica: Replica, load: LeastLoaded) -> None:
        replica.seq += 1
        entry.given_at = self._now
        self.apply(entry, Event.GIVEN, replica)
        entry.seq = replica.seq
        if entry.suspect:
            replica.exclusive = True
            load.discard(replica)
        deadline = entry.deadline
        remaining_ms = None if deadline == float("inf") else max(1, int((deadline - self._now) * 1000))
        assert replica.connection is not None, "a replica without a connection has no credit"
        self._actions.append(act.Give(replica.connection, entry, replica.seq, remaining_ms, replica.take_releases()))
