"""The recovery protocol against a hostile network and dying processes.

Messages are dropped, delayed, doubled and put out of order *inside* a connection, which is worse than TCP ever
does, and everything in a connection vanishes when it breaks. What must hold at any time, and in the end, is
written in :class:`World`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hpcserve.wire import messages as wire
from tests.unit.core.recovery_peers import DEADLINE_S, Client, Link, Replica
from tests.unit.core.recovery_world import LIMITS, World

NUMBER = st.integers(0, 11)


class RecoveryMachine(RuleBasedStateMachine):
    """What can happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(clients=2, replicas=2)
        self.world.deliver_all()

    def client(self, number: int) -> Client | None:
        living = [each for each in self.world.clients if each.is_alive]
        return living[number % len(living)] if living else None

    def replica(self, number: int) -> Replica | None:
        living = self.world.replicas
        return living[number % len(living)] if living else None

    def lane(self, number: int) -> tuple[Link, list[object]]:
        lanes = self.world.lanes()
        return lanes[number % len(lanes)]

    @rule(
        who=NUMBER,
        method=st.sampled_from(["again", "again", "once"]),
        size_bytes=st.sampled_from([5, 5, 40]),
        hurry=st.booleans(),
        count=st.integers(1, 3),
    )
    def client_asks(self, *, who: int, method: str, size_bytes: int, hurry: bool, count: int) -> None:
        client, now = self.client(who), self.world.now
        if client is not None:
            for _ in range(count):
                client.start(method, size_bytes, now + DEADLINE_S if hurry else float("inf"), now)

    @rule(who=NUMBER)
    def client_acknowledges(self, who: int) -> None:
        client = self.client(who)
        if client is not None:
            client.flush()

    @rule(who=NUMBER, which=NUMBER)
    def client_gives_up(self, who: int, which: int) -> None:
        client = self.client(who)
        if client is not None and client.caller.outstanding:
            waits = client.caller.outstanding
            client.settle(waits[which % len(waits)], "given up")

    @rule(who=NUMBER)
    def client_resumes_again(self, who: int) -> None:
        client = self.client(who)
        if client is not None:
            client.resume()

    @rule(who=NUMBER)
    def client_connects(self, who: int) -> None:
        client = self.client(who)
        if client is not None:
            self.world.connect(client)

    @rule(who=NUMBER, noticed=st.booleans())
    def client_breaks(self, *, who: int, noticed: bool) -> None:
        client = self.client(who)
        if client is not None:
            self.world.sever(client, noticed=noticed)

    @rule(who=NUMBER, noticed=st.booleans())
    def client_dies(self, *, who: int, noticed: bool) -> None:
        client = self.client(who)
        if client is not None and who == 0:
            self.world.end(client, noticed=noticed)

    @rule(who=NUMBER, noticed=st.booleans())
    def client_closes(self, *, who: int, noticed: bool) -> None:
        client = self.client(who)
        if client is not None and who == 0:
            client.flush()
            client.send(wire.Bye())
            self.world.end(client, noticed=noticed)

    @rule(who=NUMBER, size_bytes=st.sampled_from([40, 40, 40, 90, 130]))
    def replica_works(self, who: int, size_bytes: int) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.work(replica, size_bytes)

    @rule(who=NUMBER)
    def replica_connects(self, who: int) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.connect(replica)

    @rule(who=NUMBER, noticed=st.booleans())
    def replica_breaks(self, *, who: int, noticed: bool) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.sever(replica, noticed=noticed)

    @rule(who=NUMBER, noticed=st.booleans())
    def replica_crashes(self, *, who: int, noticed: bool) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.crashed[replica.id] = frozenset(replica.holdings.unfinished)
            self.world.end(replica, noticed=noticed)

    @rule(who=NUMBER, noticed=st.booleans())
    def pilot_is_lost(self, *, who: int, noticed: bool) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.end(replica, noticed=noticed)

    @rule(who=NUMBER)
    def replica_retires(self, who: int) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.retiring.add(replica.id)
            self.world.route()

    @rule(who=NUMBER, most=st.integers(1, 3), is_read=st.booleans())
    def replica_is_asked_back(self, *, who: int, most: int, is_read: bool) -> None:
        """As when another one is idle. ``is_read``: while it computes; then others may be given it."""
        known = [each for each in self.world.exchange.replicas.values() if each.connection is not None]
        if not known:
            return
        if is_read:
            self.world.deliver_all()
            for each in self.world.replicas:
                if each.running is None:
                    self.world.work(each, 40)
        self.world.exchange.ask_back(known[who % len(known)], most)
        self.world.carry_out()
        if is_read:
            self.world.deliver_all()

    @rule()
    def controller_speaks(self) -> None:
        self.world.route()

    @rule()
    def broker_dies(self) -> None:
        self.world.start_broker()

    @rule()
    def results_are_there(self) -> None:
        """And have not arrived at the broker yet."""
        self.world.deliver_all()
        for replica in self.world.replicas:
            for _ in range(4):
                self.world.work(replica, 40)

    @rule(is_sent=st.booleans())
    def broker_dies_and_everybody_comes_back(self, *, is_sent: bool) -> None:
        """Nothing that a replica holds runs again, or has an unknown outcome."""
        if is_sent:
            self.world.deliver_all()
        self.world.start_broker()
        self.everybody_comes_back()
        self.world.deliver_all()

    @rule(who=NUMBER)
    def broker_dies_and_one_replica_is_late(self, who: int) -> None:
        """The others are back before the grace is over; what the late one holds is given out once more."""
        late = self.replica(who)
        self.world.start_broker()
        self.world.route()
        for endpoint in self.world.endpoints:
            if endpoint.is_alive and endpoint is not late:
                self.world.connect(endpoint)
        self.world.deliver_all()
        self.world.advance(LIMITS.recovery_grace_s + 1.0)
        self.world.deliver_all()

    @rule()
    def everybody_comes_back(self) -> None:
        self.world.route()
        for endpoint in self.world.endpoints:
            if endpoint.is_alive and endpoint.link is None:
                self.world.connect(endpoint)

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 11.0, 31.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def broker_flushes(self) -> None:
        self.world.flush()

    @rule()
    def all_arrives(self) -> None:
        self.world.deliver_all()

    @precondition(lambda self: self.world.lanes())
    @rule(where=NUMBER, place=NUMBER)
    def message_arrives(self, where: int, place: int) -> None:
        link, lane = self.lane(where)
        self.world.deliver(link, lane, place % len(lane))

    @precondition(lambda self: self.world.lanes())
    @rule(where=NUMBER)
    def oldest_message_arrives(self, where: int) -> None:
        link, lane = self.lane(where)
        self.world.deliver(link, lane, 0)

    @precondition(lambda self: self.world.lanes())
    @rule(where=NUMBER, place=NUMBER)
    def message_is_dropped(self, where: int, place: int) -> None:
        lane = self.lane(where)[1]
        lane.pop(place % len(lane))

    @precondition(lambda self: self.world.lanes())
    @rule(where=NUMBER, place=NUMBER)
    def message_is_doubled(self, where: int, place: int) -> None:
        lane = self.lane(where)[1]
        lane.append(lane[place % len(lane)])

    @invariant()
    def books_agree(self) -> None:
        self.world.check_books()

    def teardown(self) -> None:
        self.world.heal()
        self.world.check_end()


TestRecovery = RecoveryMachine.TestCase
TestRecovery.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
