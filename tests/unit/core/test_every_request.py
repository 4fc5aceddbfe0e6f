"""The three steps that every request meets are written out in one piece each: the table must say the same of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core import actions as act
from hpcserve.core.exchange import Exchange
from hpcserve.core.ledger import ACKED, ANSWERED, GIVEN, REQUEST, Entry, State
from hpcserve.core.replicas import Replica
from hpcserve.core.sessions import Session
from hpcserve.types import Counter
from tests.unit.core.exchange_desk import LIMITS, Desk

CLIENTS, REPLICAS = 2, 2


class ByTheTable(Exchange):
    """An exchange that looks each of those steps up."""

    def _begin(self, entry: Entry, replica: Replica) -> None:
        self.apply(entry, REQUEST)
        self.apply(entry, GIVEN, replica)

    def _deliver(self, entry: Entry, replica: Replica, connection: bytes, body: object, size_bytes: int) -> None:
        self._result = (body, size_bytes)
        self.apply(entry, ANSWERED, replica)
        self._result = (None, 0)
        self.counts.answer(entry)

    def _close(self, entry: Entry, holder: Replica) -> None:
        self.apply(entry, ACKED)


@dataclass
class Play:
    """One exchange to which a list of things happens."""

    desk: Desk
    sessions: list[Session] = field(default_factory=list)
    last: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    running: list[tuple[str, Any]] = field(default_factory=list)

    def begin(self) -> None:
        self.desk.serve(*(f"r{number}" for number in range(REPLICAS)))
        self.sessions = [self.desk.client(f"c{number}") for number in range(CLIENTS)]

    def happens(self, what: str, number: int, size_bytes: int) -> None:
        who = number % CLIENTS
        session = self.sessions[who]
        if what == "ask":
            self.last[who] += 1
            remaining_ms = 1000 if number % 3 else None
            self.desk.ask(session, self.last[who], size_bytes=size_bytes, remaining_ms=remaining_ms)
        elif what == "answer" and self.running:
            name, key = self.running.pop(number % len(self.running))
            if name in self.desk.exchange.replicas:
                self.desk.answer(name, key, size_bytes=size_bytes, credit=1 + number % 3)
        elif what == "ack":
            self.desk.ack(session, max(session.floor, self.last[who] + 1 - number % 4))
        elif what == "owe":
            self.desk.exchange.owe_ack(session, max(session.floor, self.last[who] + 1 - number % 4), ())
        elif what == "away":
            self.desk.exchange.client_gone(f"c{who}".encode(), self.desk.now)
        elif what == "back":
            waits = [id for id in range(session.floor, self.last[who] + 1) if id % 2]
            self.desk.client(f"c{who}", *waits, floor=session.floor)
        elif what == "crash":
            self.desk.route("r0", crashed="r1")
            self.desk.route("r0", "r1")
            self.desk.inventory("r1")

    def comes_of_it(self) -> list[object]:
        told: list[object] = []
        while actions := self.desk.exchange.take():
            told += [self.one(action) for action in actions]
        return told

    def one(self, action: act.AnyAction) -> object:
        if isinstance(action, act.Give):
            entry = action.entry
            self.running.append((action.connection.decode(), entry.key))
            return action.connection, entry.key, action.seq, action.remaining_ms, action.releases
        if isinstance(action, act.Tell):
            return action.connection, action.id, type(action.error)
        return action

    def books(self) -> list[object]:
        exchange = self.desk.exchange
        entries = [
            (entry.key, State(entry.state), entry.size_bytes, entry.seq, entry.body, entry.replica and entry.replica.id)
            for session in exchange.sessions.values()
            for entry in session.entries.values()
        ]
        replicas = [
            (each.id, each.waiting, each.waiting_bytes, each.seq, each.exclusive, list(each.entries), each.releases)
            for each in exchange.replicas.values()
        ]
        sessions = [(each.held_bytes, each.sent_bytes, each.floor) for each in exchange.sessions.values()]
        counts = exchange.counts
        return [
            (exchange.held_bytes, exchange.queued, exchange.releases_wait, counts.requests, counts.answered),
            entries,
            replicas,
            sessions,
        ]


HAPPENS = st.tuples(
    st.sampled_from(["ask"] * 4 + ["answer"] * 4 + ["ack"] * 2 + ["owe"] * 2 + ["away", "back", "crash"]),
    st.integers(0, 11),
    st.integers(1, 60),
)


@given(st.lists(HAPPENS, max_size=40))
def test_the_short_way_is_the_tables_way(events: list[tuple[str, int, int]]) -> None:
    plays = [Play(Desk(kind(LIMITS, 0.0))) for kind in (Exchange, ByTheTable)]
    for play in plays:
        play.begin()
    for event in events:
        for play in plays:
            play.happens(*event)
        assert plays[0].comes_of_it() == plays[1].comes_of_it()
        assert plays[0].books() == plays[1].books()


def test_the_short_way_is_taken_on_a_good_day() -> None:
    """Or the test above would compare the table with itself."""
    taken = []

    class Watched(ByTheTable):
        def _begin(self, entry: Entry, replica: Replica) -> None:
            taken.append("begin")
            super()._begin(entry, replica)

        def _deliver(self, entry: Entry, replica: Replica, connection: bytes, body: object, size_bytes: int) -> None:
            taken.append("deliver")
            super()._deliver(entry, replica, connection, body, size_bytes)

        def _close(self, entry: Entry, holder: Replica) -> None:
            taken.append("close")
            super()._close(entry, holder)

    desk = Desk(Watched(LIMITS, 0.0))
    desk.serve("a")
    session = desk.client()
    desk.answer("a", desk.ask(session, Counter(1)))
    desk.ack(session, 2)
    assert taken == ["begin", "deliver", "close"]
