"""Streams in the broker's books: which items go on to their client, and what becomes of a stream that is cut.

A stream is a request like any other: it is queued, given out, recovered and answered by the ledger's table. What is
here comes to it on its way: items pass from its replica to its client, and the client's word back.
"""

from __future__ import annotations

from hpcserve.core import actions as act
from hpcserve.core.ledger import Entry, Event, State
from hpcserve.core.recovery import Recovery
from hpcserve.core.replicas import Replica
from hpcserve.core.sessions import Session
from hpcserve.core.streams import Relay, Repeats
from hpcserve.types import Counter, RequestKey

_STREAMING = (State.RUNNING, State.HELD, State.KEPT, State.DONE)


class Relays(Recovery):
    """The passing on of items."""

    def items(
        self, replica: Replica, key: RequestKey, *, first: int, count: int, body: object, size_bytes: int, now: float
    ) -> None:
        """A replica sent items of a stream. Those that cannot go on are dropped: the client asks for them again."""
        self._now = now
        session = self.sessions.get(key[0])
        entry = None if session is None else session.entries.get(key[1])
        if session is None or entry is None or entry.replica is not replica or entry.state not in _STREAMING:
            return
        self._repeats(key).came(first, count)
        if session.connection is None:
            return
        relay = self.relays.get(key)
        if relay is None:
            relay = self.relays[key] = Relay()
            self._begun(replica, entry)
        if not relay.lets_pass(first, count):
            return
        if session.sent_bytes and session.sent_bytes + size_bytes > self.limits.session_bytes:
            relay.is_held = True
            return
        relay.send(first, count, size_bytes)
        self._count_items(session, size_bytes)
        self._actions.append(act.Forward(session.connection, body))

    def _begun(self, replica: Replica, entry: Entry) -> None:
        """A stream has its first item. It is not run again, so it need not be alone to be convicted, should it be."""
        entry.suspect = False
        entry.begun = True
        replica.lane.answered += 1
        if entry.seq:
            self._took(replica.lane, self._now - entry.given_at)
        if replica.exclusive and replica.waiting <= self.streams_at(replica):
            replica.exclusive = False
            self._refill(replica)

    def more(self, session: Session, id: Counter, received: int, *, again: bool, now: float) -> None:
        """A client has taken items; ``again``: it misses those that follow."""
        self._now = now
        entry = session.entries.get(id)
        if entry is None:
            return
        if again and entry.state is State.LEFT:
            self.apply(entry, Event.RESUMED)  # the answer has come, items are missing, and no replica has them
            return
        relay = self.relays.get(entry.key)
        held = relay is not None and relay.is_held
        if relay is not None:
            freed_bytes = relay.more(received, now, again=again)
            self._count_items(session, -freed_bytes)
            if session.parked:
                self._unpark(session, freed_bytes)
        replica = entry.replica
        if replica is not None and replica.connection is not None:
            if relay is not None:
                received = min(received, relay.next)  # who claims more would have items made that nobody takes
            again = (again or held) and self._may_ask(entry.key, relay, received, held=held)
            self._actions.append(act.More(replica.connection, entry.key, received, again))

    def _may_ask(self, key: RequestKey, relay: Relay | None, received: int, *, held: bool) -> bool:
        """Whether the replica is asked to send once more what it keeps."""
        repeats = self._repeats(key)
        if repeats.may_ask(received, self._now, held=held):
            return True
        if relay is not None:
            relay.is_held = held and not repeats.is_coming
        return False

    def _repeats(self, key: RequestKey) -> Repeats:
        repeats = self.repeats.get(key)
        if repeats is None:
            repeats = self.repeats[key] = Repeats()
        return repeats
