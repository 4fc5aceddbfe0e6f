"""The broker's decisions: who is served, refused, given what, asked again (design §5 and §6).

Events come in as method calls with ``now`` (monotonic seconds); what is to be done comes out of
:meth:`Exchange.take` as frozen actions. The house has five floors: what an event does to a single request stands
in the table of :mod:`hpcserve.core.ledger`, which :mod:`hpcserve.core.books` carries out;
:mod:`hpcserve.core.dispatch` gives out what is queued; :mod:`hpcserve.core.recovery` listens to the replicas, and
:mod:`hpcserve.core.relays` to their streams; here are the clients, the controller and time.

Does not decide who is let in (admission does), nor how many replicas there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hpcserve.core import actions as act
from hpcserve.core.access import OPEN, Caller, Policy
from hpcserve.core.dispatch import MAX_GAPS, MAX_UNSETTLED, Call, Limits
from hpcserve.core.gate import Gate, recall, routes_changed
from hpcserve.core.lanes import Lane
from hpcserve.core.ledger import NEVER, REQUEST, SETTLED, WANTED, Entry, Event, State
from hpcserve.core.relays import Relays
from hpcserve.core.replicas import Replica
from hpcserve.core.routes import Deployment, RoutingTable
from hpcserve.core.sessions import Session
from hpcserve.core.sharing import LEAST, SILENT_S, overloaded
from hpcserve.errors import HpcserveError, ProtocolError
from hpcserve.types import Counter, DeploymentName, EndpointName, ReplicaId, SessionId

NOBODY = Caller()
__all__ = ["MAX_GAPS", "MAX_UNSETTLED", "Call", "Exchange", "Limits"]


class Exchange(Relays):
    """All requests of one broker, in one epoch. ``gate``: who may call what."""

    def __init__(self, limits: Limits, now: float, policy: Policy = OPEN) -> None:
        super().__init__(limits, now)
        self.gate = Gate(policy)
        self._places = 0
        self._by_connection: dict[bytes, Session] = {}
        self._by_left: dict[bytes, Session] = {}
        self._owed: list[tuple[Session, int, tuple[Counter, ...]]] = []

    def take(self) -> list[act.AnyAction]:
        """The actions that the events since the last call have led to, in order. Call it until there are none."""
        if self._owed and not self._actions:
            self._settle_owed()
        return super().take()

    # --- clients ------------------------------------------------------------------------------------

    def session_of(self, connection: bytes) -> Session | None:
        """The session that resumed on this connection."""
        return self._by_connection.get(connection)

    def left_by(self, connection: bytes) -> Session | None:
        """The session that was on this connection when it was found gone, and has been on no other since.

        What its client said before it went may be read after that: a write fails as soon as the peer has closed.
        """
        return self._by_left.get(connection)

    def resume(
        self,
        session_id: SessionId,
        connection: bytes,
        *,
        identity: object,
        floor: int,
        outstanding: tuple[Counter, ...],
        now: float,
        caller: Caller = NOBODY,
    ) -> Session:
        """A client said who it is and what it still waits for. ``identity`` is only kept, ``caller`` decides.

        Raises:
            ProtocolError: It claims more than a session may.
        """
        if any(id < floor for id in outstanding):
            raise ProtocolError(f"RESUME: an outstanding id is below the floor {floor}, so it is settled")
        self._now = now
        session = self.session(session_id, now)
        # A second RESUME on one connection may be an old one: it knows nothing of what was sent after it.
        known_connection = session.connection == connection
        last = max(outstanding, default=floor - 1) if known_connection else NEVER
        for each in (session, self._by_connection.get(connection), self._by_left.get(connection)):
            if each is not None:
                self._detach(each)
        known, session.resumed = session.resumed, True
        session.met = True
        session.connection, session.identity = connection, identity
        recall(session, caller)
        session.parked.clear()
        if self.relays and not known_connection:
            self.lose_items(session)
        self._by_connection[connection] = session
        wanted = set(outstanding)
        over = tuple(id for id in session.entries if id not in wanted and id <= last)
        self.settle(session, session.settle(floor, over))
        for id in outstanding:
            if not session.is_settled(id):
                self._seek(self.entry(session, id), known=known)
        return session

    def _seek(self, entry: Entry, *, known: bool) -> None:
        """A client waits for this request.

        ``known``: its session has been here in this epoch, so a request that is not in the ledger never arrived.
        """
        if entry.state is State.SETTLED:
            entry.maybe_ran = not known
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
        elif entry.state is not WANTED:
            return
        try:
            if not self._fits(session, call):
                self._settle_owed()
                if session.is_settled(call.id):
                    return
                self._check(session, call)
            if not self._roster_known:
                self.apply(self.entry(session, call.id), Event.RESUMED)
                return
            lane, idempotent = session.ways.get((call.endpoint, call.method)) or self._way(session, call)
        except HpcserveError as error:
            self._refuse(session, call.id, error)
            return
        deadline = NEVER if call.remaining_ms is None else now + call.remaining_ms / 1000
        lane.came += 1
        if entry is None:
            replica = lane.load.pick() if not lane.queue.count and deadline > now else None
            if replica is None and self._turns_away(session, call, lane, deadline - now):
                return
            entry = session.entries[call.id] = Entry(session, call.id, SETTLED)
        else:
            replica = None
            entry.attempt = 1
        self._places = entry.place = self._places + 1
        entry.lane, entry.idempotent = lane, idempotent
        entry.body, entry.priority = call.body, call.priority
        entry.deadline = deadline
        self.account(entry, call.size_bytes)
        self.counts.take(entry)
        if replica is not None:
            self._begin(entry, replica)
            self._send(entry, replica)
        else:
            self._wait(entry, lane)

    def _turns_away(self, session: Session, call: Call, lane: Lane, left_s: float) -> bool:
        """Whether a request is refused because it would have to wait. One without any time left expires instead."""
        refusal = lane.refusal(session, call.size_bytes, left_s, call.priority) if left_s > 0 else None
        if refusal is None:
            return False
        lane.refused += 1
        self._refuse(session, call.id, refusal)
        return True

    def _wait(self, entry: Entry, lane: Lane) -> None:
        """Queues a request, and gives out what can be given.

        One that the client was asked for had been taken before; it is not turned away.
        """
        if not entry.attempt:
            entry.patience = self._now + lane.max_queue_s
        self.apply(entry, REQUEST)
        if entry.maybe_ran and not entry.idempotent:
            self._burn(entry)
        self._pump(lane)
        if lane.is_looked_at(self._now) and not any(each.lane is lane for each in self.replicas.values()):
            self._actions.append(act.ReportLacking(lane.name))

    def refuse(self, session: Session, id: Counter, error: HpcserveError, now: float) -> None:
        """A client sent a request that is not taken. One that is known already stays as it is."""
        self._now = now
        entry = session.entries.get(id)
        if not session.is_settled(id) if entry is None else entry.state is WANTED:
            self._refuse(session, id, error)

    def _way(self, session: Session, call: Call) -> tuple[Lane, bool]:
        """Where a call goes, and whether it may run twice; what was found is remembered until the routes change."""
        self.gate.check(session, call.id, call.endpoint, self._table)
        name, idempotent = self._table.route(call.endpoint, call.method)
        way = session.ways[call.endpoint, call.method] = (self.lane(name), idempotent)
        return way

    def owe_ack(self, session: Session, floor: int, acks: tuple[Counter, ...]) -> None:
        """As :meth:`ack`, but not before the actions of the next event were taken: they are more urgent.

        Raises:
            ProtocolError: It acknowledges more than it can have asked.
        """
        if floor > session.floor or acks:
            self._check_acks(session, acks)
            self._owed.append((session, floor, acks))

    def _settle_owed(self) -> None:
        owed, self._owed = self._owed, []
        for session, floor, acks in owed:
            self.settle(session, session.settle(floor, acks))

    def ack(self, session: Session, floor: int, acks: tuple[Counter, ...], now: float) -> None:
        """A client settled requests: it has their answers, or does not want them.

        Raises:
            ProtocolError: It acknowledges more than it can have asked.
        """
        self._now = now
        self._check_acks(session, acks)
        self.settle(session, session.settle(floor, acks))

    @staticmethod
    def _check_acks(session: Session, acks: tuple[Counter, ...]) -> None:
        if acks and len(session.settled) > MAX_GAPS:
            raise ProtocolError(f"more than {MAX_GAPS} gaps among the acknowledged ids above the floor {session.floor}")

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
        """A client's connection is not there any more; the session lingers. See :meth:`left_by`."""
        self._now = now
        session = self._by_connection.get(connection)
        if session is not None:
            self._detach(session)
            session.left = connection
            self._by_left[connection] = session

    def _detach(self, session: Session) -> None:
        if session.left is not None:
            del self._by_left[session.left]
            session.left = None
        if session.connection is not None:
            self._by_connection.pop(session.connection, None)
            session.connection = None
            session.away_since = self._now

    # --- the controller -----------------------------------------------------------------------------

    def route(
        self,
        endpoints: Mapping[EndpointName, DeploymentName],
        deployments: Iterable[Deployment],
        *,
        crashed: Mapping[ReplicaId, str] | None = None,
        retiring: frozenset[ReplicaId] = frozenset(),
        giving_back: frozenset[ReplicaId] = frozenset(),
        ends_at: Mapping[ReplicaId, float] | None = None,
        now: float,
    ) -> None:
        """The whole routing table anew. A replica that is not in it is dead; ``crashed`` says how, if by itself.

        Of the ``retiring``, which get nothing more, those ``giving_back`` keep only what they have begun. Those that
        ``ends_at`` names end then, with their pilots, and get nothing that they are not expected to finish.
        """
        self._now = now
        before, self._table = self._table, RoutingTable(endpoints, {each.name: each for each in deployments})
        routes_changed(self.sessions.values(), before, self._table)
        homes = {id: each.name for each in self._table.deployments.values() for id in each.replicas}
        for id, replica in list(self.replicas.items()):
            if id not in homes:
                self._lose(replica, (crashed or {}).get(id))
        for each in self._table.deployments.values():
            self.lane(each.name).kill_cancelled_s = each.kill_cancelled_s
        for id, name in homes.items():
            if id not in self.replicas:
                self.replicas[id] = Replica(id, self.lane(name))
            replica = self.replicas[id]
            replica.retiring = id in retiring
            replica.ends_at = (ends_at or {}).get(id, NEVER)
            replica.known_since = min(replica.known_since, now)
            self._rest(replica)
            replica.lane.update(replica)
            if id in giving_back and replica.waiting >= LEAST:
                self.ask_back(replica, replica.waiting)
        for each in self._table.deployments.values():
            lane = self.lane(each.name)
            lane.max_queue_bytes, lane.max_queue_s = each.max_queue_bytes, each.max_queue_s
        self._fail_queues()
        if not self._roster_known:
            self._roster_known = True
            self._began = now
        self._check_recovered()
        for lane in list(self.lanes.values()):
            self._pump(lane)

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Time passed. Returns when it must be called again, at the latest."""
        self._now = now
        wake = now + 60.0
        if not self.recovered:
            self._check_recovered()
            wake = min(wake, max(now + 1.0, self._began + self.limits.recovery_grace_s))
        workers = dict.fromkeys(self.lanes.values(), 0)
        for replica in self.replicas.values():
            resting = replica.resting or replica.doomed_at is not None
            if replica.connection is not None and not resting and replica.lane in workers:
                workers[replica.lane] += 1
        for lane, count in workers.items():
            expired = lane.queue.expired(now)
            for entry in expired:
                self._give_up(entry, workers=count)
            if expired:
                self._pump(lane)
            lane.longest.look(now, lane.answered)
            lane.pace.look(now, waits=lane.queue.count > 0, answered=lane.answered, workers=count)
            wake = min(wake, lane.queue.next_deadline())
        wake = min(wake, self._look_at_replicas())
        self._actions.extend(self.absences.tick(now))
        wake = min(wake, self.absences.next_report())
        for session in list(self.sessions.values()):
            linger_s = session.linger_s(self.limits.session_linger_s)
            if session.connection is None and now - session.away_since >= linger_s:
                self.bye(session, now)
        return wake

    def _look_at_replicas(self) -> float:
        """Which of them hang, run what nobody waits for, are drained, end, or hold what others could.

        Returns:
            When to look again.
        """
        now = self._now
        wake = NEVER
        for replica in self.replicas.values():
            if replica.ends_at != NEVER:
                was_resting = replica.resting
                wake = min(wake, self._rest(replica))
                if was_resting and not replica.resting:
                    self._pump(replica.lane)
            if replica.entries:
                self._watch(replica)
                wake = min(wake, now + 1.0)
                if replica.lane.kill_cancelled_s is not None:
                    wake = min(wake, self._look_for_unwanted(replica, replica.lane.kill_cancelled_s))
            elif replica.retiring and replica.reported:
                self._actions.append(act.ReportIdle(replica.id))
                wake = min(wake, now + 1.0)
            if replica.doomed_at is not None:
                self._spare(replica)
                wake = min(wake, now + 1.0)
        overfull, soon = overloaded(self.lanes.values(), self.replicas.values(), now, self.streams_at)
        for replica, most in overfull:
            self.ask_back(replica, most)
        return min(wake, now + SILENT_S) if soon else wake

    def flush(self) -> None:
        """Sends the releases that no work has carried along."""
        self.releases_wait = False
        for replica in self.replicas.values():
            if replica.releases and replica.connection is not None:
                self._actions.append(act.Release(replica.connection, replica.take_releases()))

    def probe(self) -> None:
        """Has the process find out which clients have gone without a word."""
        self._actions.extend(
            act.Probe(session.connection) for session in self.sessions.values() if session.connection is not None
        )
