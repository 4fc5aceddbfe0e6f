"""The broker's books: sessions, replicas, queues, budgets, and the carrying out of the ledger's table.

:class:`Books` answers "what does this event do to this request"; :mod:`hpcserve.core.exchange` builds the
broker's decisions on it.

Three steps of the table are met by every request: it is begun, its result is delivered, and that is closed. They
are written out here in one piece each (:meth:`Books._begin`, :meth:`Books._deliver`, :meth:`Books._close`), at a third
of the cost of the general :meth:`Books.apply`; a test holds them to it.
"""

from __future__ import annotations

from collections.abc import Callable

from hpcserve.core import actions as act
from hpcserve.core.lanes import Lane
from hpcserve.core.ledger import (
    ACKED,
    ANSWERED,
    DONE,
    EMBODIED,
    ENDED,
    LISTED,
    LISTED_DONE,
    RULES,
    RUNNING,
    SETTLED,
    TAKEN,
    UNCOUNTED,
    UNFINISHED,
    Entry,
    Event,
    State,
)
from hpcserve.core.replicas import Replica
from hpcserve.core.sessions import Session
from hpcserve.core.streams import Relay, Repeats
from hpcserve.types import Counter, DeploymentName, ReplicaId, RequestKey, SessionId


class Counts:
    """What happened since the epoch began; each request counts once as one, and once as answered or failed.

    One that an earlier broker took, and that was never sent to this one, counts when it is answered or fails: so
    ``answered`` and ``failed`` are never more than ``requests``.
    """

    __slots__ = ("answered", "failed", "refused", "requests", "requeued")

    def __init__(self) -> None:
        self.requests = self.answered = self.failed = self.refused = self.requeued = 0

    def take(self, entry: Entry) -> None:
        """The client has sent the request."""
        if entry.tally == UNCOUNTED:
            entry.tally = TAKEN
            self.requests += 1

    def answer(self, entry: Entry) -> None:
        """The result is on its way to the client."""
        if entry.tally != ENDED:
            self.requests += entry.tally == UNCOUNTED
            self.answered += 1
            entry.tally = ENDED

    def refuse(self, entry: Entry) -> None:
        """The request was taken, and is refused after all: as if it had been so at once."""
        self.requests -= entry.tally == TAKEN
        self.refused += 1
        entry.tally = ENDED

    def fail(self, entry: Entry) -> None:
        """The client is told an error."""
        if entry.tally != ENDED:
            self.requests += entry.tally == UNCOUNTED
            self.failed += 1
            entry.tally = ENDED


class Books:
    """Who waits for what, and who holds it. One thread owns them."""

    def __init__(self, session_bytes: int) -> None:
        self.counts = Counts()
        self.held_bytes = 0
        self.queued = 0
        self.releases_wait = False
        self.sessions: dict[SessionId, Session] = {}
        self.replicas: dict[ReplicaId, Replica] = {}
        self.lanes: dict[DeploymentName, Lane] = {}
        self.relays: dict[RequestKey, Relay] = {}
        self.repeats: dict[RequestKey, Repeats] = {}
        self._session_bytes = session_bytes
        self._actions: list[act.AnyAction] = []
        self._asks: dict[Session, list[Counter]] = {}
        self._fetches: dict[Replica, list[RequestKey]] = {}
        self._result: tuple[object, int] = (None, 0)
        self._effects: tuple[Callable[[Entry, Replica | None], None], ...] = (
            self._enqueue,
            self._dequeue,
            self._forward,
            self._park,
            self._ask,
            self._tell,
            self._fetch,
            self._release,
            self._release_holder,
            self._adopt,
            self._let_go,
            self._forget,
        )

    def take(self) -> list[act.AnyAction]:
        """The actions that the events since the last call have led to, in order."""
        if self._asks or self._fetches:
            self._ask_all()
        taken, self._actions = self._actions, []
        return taken

    def _ask_all(self) -> None:
        for session, ids in self._asks.items():
            if session.connection is not None:
                self._actions.append(act.Ask(session.connection, tuple(ids)))
        for replica, keys in self._fetches.items():
            if replica.connection is not None:
                self._actions.append(act.Fetch(replica.connection, tuple(keys)))
        self._asks, self._fetches = {}, {}

    def session(self, session_id: SessionId, now: float) -> Session:
        """The session of this id; one that is new here has not resumed."""
        session = self.sessions.get(session_id)
        if session is None:
            session = self.sessions[session_id] = Session(session_id)
            session.away_since = now
        return session

    def entry(self, session: Session, id: Counter) -> Entry:
        """The entry of a request, made in the right state where there is none."""
        entry = session.entries.get(id)
        if entry is None:
            entry = Entry(session, id, State.SETTLED if session.resumed else State.ABSENT)
            session.entries[id] = entry
        return entry

    def lane(self, deployment: DeploymentName) -> Lane:
        """The lane of a deployment, made when it is first asked for."""
        lane = self.lanes.get(deployment)
        if lane is None:
            lane = self.lanes[deployment] = Lane(deployment)
        return lane

    def account(self, entry: Entry, size_bytes: int) -> None:
        """Makes the budgets count ``size_bytes`` for the entry from now on."""
        change = size_bytes - entry.size_bytes
        entry.size_bytes = size_bytes
        entry.session.held_bytes += change
        self.held_bytes += change

    def settle(self, session: Session, ids: list[Counter]) -> None:
        """The client does not wait for these any more; what was parked for want of room moves on."""
        sent_bytes = session.sent_bytes
        if self.relays or self.repeats:
            self._end_relays(session, ids)
        for id in ids:
            entry = session.entries.get(id)
            if entry is None:
                continue
            if entry.state is DONE and entry.replica is not None:
                self._close(entry, entry.replica)
            else:
                self.apply(entry, ACKED)
        if session.parked:
            self._unpark(session, sent_bytes - session.sent_bytes)

    def streams_at(self, replica: Replica) -> int:
        """How many unfinished requests of a replica are streams that have begun."""
        if not self.relays:
            return 0
        return sum(key in self.relays and UNFINISHED[entry.state] for key, entry in replica.entries.items())

    def _end_relays(self, session: Session, ids: list[Counter]) -> None:
        for id in ids:
            self.repeats.pop((session.id, id), None)
            relay = self.relays.pop((session.id, id), None)
            if relay is not None:
                self._count_items(session, -relay.out_bytes)

    def lose_items(self, session: Session) -> None:
        """The client has another connection: no item is on its way."""
        for id in session.entries:
            relay = self.relays.get((session.id, id))
            if relay is not None:
                self._count_items(session, -relay.lose())

    def _count_items(self, session: Session, size_bytes: int) -> None:
        """Makes the budgets count so many more bytes of items that are on their way to the client."""
        session.sent_bytes += size_bytes
        session.item_bytes += size_bytes
        session.held_bytes += size_bytes
        self.held_bytes += size_bytes

    def _unpark(self, session: Session, room_bytes: int) -> None:
        """Fetches about as much as was acknowledged, and one result at least.

        All at once would only come to be parked again.
        """
        while session.parked and self._has_room(session, 1):
            entry, size_bytes = session.parked.popleft()
            if entry.state is State.KEPT:
                self._fetch(entry, None)
                room_bytes -= size_bytes
                if room_bytes <= 0:
                    return

    def _has_room(self, session: Session, size_bytes: int) -> bool:
        """Whether one more result may go to the client. If no other is on its way, it may: items cannot starve it."""
        sent_bytes = session.sent_bytes
        return sent_bytes + size_bytes <= self._session_bytes or sent_bytes <= session.item_bytes

    def result(self, replica: Replica, entry: Entry, body: object, size_bytes: int) -> None:
        """A replica sent the result of a request."""
        session = entry.session
        fits = self._has_room(session, size_bytes)
        if fits and entry.state is RUNNING and entry.replica is replica and session.connection is not None:
            self._deliver(entry, replica, session.connection, body, size_bytes)
            return
        event = ANSWERED
        if entry.replica is not None and entry.replica is not replica:
            event = Event.OTHER_ANSWERED
            if UNFINISHED[entry.state]:
                entry.replica.unsure = True
        elif not fits:
            event = Event.PARKED
        before, self._result = entry.state, (body, size_bytes)
        self.apply(entry, event, replica)
        self._result = (None, 0)
        if entry.state is DONE:
            self.counts.answer(entry)
        if before is State.STRAY and entry.replica is replica:
            entry.given_at = 0.0  # it does not run any more; see Recovery._watch

    def apply(self, entry: Entry, event: Event, speaker: Replica | None = None) -> None:
        """Looks the event up in the table and carries out what it says.

        ``speaker`` is the replica that the event came from.
        """
        if (event is LISTED or event is LISTED_DONE) and entry.replica not in (None, speaker):
            event = Event.OTHER_LISTED
        rule = RULES[entry.state][event]
        if rule is None:
            return
        old, holder = entry.state, entry.replica
        entry.state = rule[0]
        if UNFINISHED[old] and holder is not None:
            holder.waiting -= 1
            holder.waiting_bytes -= entry.size_bytes
        if old is DONE:
            entry.session.sent_bytes -= entry.size_bytes
        for effect in rule[1]:
            self._effects[effect](entry, speaker)
        self._settle_accounts(entry)
        if UNFINISHED[old] or UNFINISHED[entry.state]:
            self._settle_loads(holder, entry.replica)

    def _settle_loads(self, before: Replica | None, after: Replica | None) -> None:
        """Puts the request's old and new holder, whose unfinished work has changed, where they now belong."""
        if before is not None:
            if before.exclusive and before.waiting <= self.streams_at(before):
                before.exclusive = False
            if before is not after:
                before.lane.update(before)
        if after is not None:
            after.lane.update(after)

    def _settle_accounts(self, entry: Entry) -> None:
        """Makes the budgets and the holder's load agree with the entry's new state."""
        state = entry.state
        if not EMBODIED[state]:
            entry.body = None
            if state is DONE:
                entry.session.sent_bytes += entry.size_bytes
            elif entry.size_bytes:
                self.account(entry, 0)
        if UNFINISHED[state]:
            replica = entry.replica
            assert replica is not None, "an unfinished request has a holder"
            replica.waiting += 1
            replica.waiting_bytes += entry.size_bytes

    # --- the steps of every request, each in one piece ----------------------------------------------------

    def _begin(self, entry: Entry, replica: Replica) -> None:
        """SETTLED, REQUEST and at once GIVEN: the request is new, its body counted, and nothing waits before it."""
        entry.state = RUNNING
        entry.replica = replica
        replica.entries[entry.key] = entry
        replica.waiting += 1
        replica.waiting_bytes += entry.size_bytes
        replica.lane.update(replica)

    def _deliver(self, entry: Entry, replica: Replica, connection: bytes, body: object, size_bytes: int) -> None:
        """RUNNING, ANSWERED by its replica, and the client can take the result. The load is left to the caller."""
        session = entry.session
        replica.waiting -= 1
        replica.waiting_bytes -= entry.size_bytes
        change = size_bytes - entry.size_bytes
        session.held_bytes += change
        session.sent_bytes += size_bytes
        self.held_bytes += change
        entry.state = DONE
        entry.size_bytes = size_bytes
        entry.body = None
        if replica.exclusive and replica.waiting <= self.streams_at(replica):
            replica.exclusive = False
        self.counts.answer(entry)
        self._actions.append(act.Forward(connection, body))

    def _close(self, entry: Entry, holder: Replica) -> None:
        """DONE, ACKED: the holder may forget the result, and we the request."""
        session, key = entry.session, entry.key
        session.sent_bytes -= entry.size_bytes
        session.held_bytes -= entry.size_bytes
        self.held_bytes -= entry.size_bytes
        entry.state = SETTLED
        entry.size_bytes = 0
        entry.replica = None
        holder.releases.append(key)
        self.releases_wait = True
        del holder.entries[key]
        del session.entries[entry.id]

    # --- the effects, in the order of ledger.Effect ------------------------------------------------------

    def _enqueue(self, entry: Entry, speaker: Replica | None) -> None:
        assert entry.lane is not None, "a request that is queued has its route"
        entry.lane.queue.push(entry)
        self.queued += 1

    def _dequeue(self, entry: Entry, speaker: Replica | None) -> None:
        assert entry.lane is not None, "a request that is queued has its route"
        entry.lane.queue.drop(entry)
        self.queued -= 1

    def _forward(self, entry: Entry, speaker: Replica | None) -> None:
        """Without a connection the result stays where it is: the client's next RESUME fetches it."""
        body, size_bytes = self._result
        connection = entry.session.connection
        self.account(entry, size_bytes if connection is not None else 0)
        if connection is not None:
            self._actions.append(act.Forward(connection, body))

    def _park(self, entry: Entry, speaker: Replica | None) -> None:
        entry.session.parked.append((entry, self._result[1]))

    def _ask(self, entry: Entry, speaker: Replica | None) -> None:
        self._asks.setdefault(entry.session, []).append(entry.id)

    def _tell(self, entry: Entry, speaker: Replica | None) -> None:
        assert entry.error is not None, "a failed request has its error"
        self.counts.fail(entry)
        session = entry.session
        if session.connection is not None:
            self._actions.append(act.Tell(session.connection, session.id, entry.id, entry.error))

    def _fetch(self, entry: Entry, speaker: Replica | None) -> None:
        assert entry.replica is not None, "a result that is fetched has a holder"
        if not self._has_room(entry.session, 1):
            entry.session.parked.append((entry, 0))
        else:
            self._fetches.setdefault(entry.replica, []).append(entry.key)

    def _release(self, entry: Entry, speaker: Replica | None) -> None:
        assert speaker is not None, "a replica spoke"
        speaker.releases.append(entry.key)
        self.releases_wait = True

    def _release_holder(self, entry: Entry, speaker: Replica | None) -> None:
        assert entry.replica is not None, "the entry names its holder"
        entry.replica.releases.append(entry.key)
        self.releases_wait = True

    def _adopt(self, entry: Entry, speaker: Replica | None) -> None:
        assert speaker is not None, "a replica spoke, or is spoken to"
        entry.replica, entry.seq = speaker, 0
        speaker.entries[entry.key] = entry

    def _let_go(self, entry: Entry, speaker: Replica | None) -> None:
        if entry.replica is not None:
            entry.replica.entries.pop(entry.key, None)
            entry.replica = None

    def _forget(self, entry: Entry, speaker: Replica | None) -> None:
        self._let_go(entry, speaker)
        entry.session.entries.pop(entry.id, None)
