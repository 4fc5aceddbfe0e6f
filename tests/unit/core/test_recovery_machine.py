"""The recovery protocol against a hostile network and dying processes.

Clients, one broker after the other and replicas are the real decisions of ``core/``; only the processes around
them are played here. Messages are dropped, delayed, doubled and put out of order *inside* a connection, which is
worse than TCP ever does, and everything in a connection vanishes when it breaks.
"""

from __future__ import annotations

from collections import Counter as Tally

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hpcserve.core import actions as act
from hpcserve.core.caller import Caller
from hpcserve.core.exchange import Call, Exchange, Limits
from hpcserve.core.holdings import Holdings
from hpcserve.core.ledger import UNFINISHED, State
from hpcserve.core.routes import Deployment
from hpcserve.errors import Cancelled, DeadlineExceeded, OutcomeUnknown, Overloaded, PoisonRequest
from hpcserve.types import Counter, DeploymentName, EndpointName, Epoch, ReplicaId, RequestKey, SessionId
from hpcserve.wire import messages as wire

NAME = DeploymentName("echo@1")
METHODS = {"again": True, "once": False}
LIMITS = Limits(
    broker_bytes=300,
    session_bytes=160,
    max_queued=8,
    recovery_grace_s=10.0,
    session_linger_s=60.0,
    hang_grace_s=5.0,
    census_s=30.0,
)
CREDIT = 2, 60
OUTBOX_BYTES = 150
DEADLINE_S = 20.0


class Link:
    """One connection of an endpoint to the broker."""

    def __init__(self, name: bytes, owner: Client | Replica) -> None:
        self.name, self.owner = name, owner
        self.up: list[object] = []
        self.down: list[object] = []


class Client:
    """A client process: the real Caller, and the loop around it."""

    def __init__(self, number: int) -> None:
        self.session = SessionId(bytes([number]) * 16)
        self.caller = Caller()
        self.link: Link | None = None
        self.answers: dict[Counter, str] = {}
        self.calls: dict[Counter, wire.Request] = {}
        self.is_alive = True
        self.is_resumed = False
        self.highest_sent = 0

    def send(self, message: object) -> None:
        if self.link is not None:
            self.link.up.append(message)

    def start(self, method: str, size_bytes: int, deadline: float, now: float) -> None:
        call = wire.Request(Counter(0), "echo", method, msgspec.Raw(bytes(size_bytes)))
        id = self.caller.start(call, deadline)
        self.calls[id] = msgspec.structs.replace(call, id=id, remaining_ms=int(DEADLINE_S * 1000))
        if deadline == float("inf"):
            self.calls[id] = msgspec.structs.replace(self.calls[id], remaining_ms=None)
        if self.is_resumed:
            self.ask(id)

    def ask(self, id: Counter) -> None:
        self.highest_sent = max(self.highest_sent, id)
        floor, acks = self.caller.take_acks()
        self.send(msgspec.structs.replace(self.calls[id], floor=floor, acks=acks))

    def settle(self, id: Counter, answer: str) -> None:
        if self.caller.settle(id) is not None:
            assert id not in self.answers, "a request was answered twice"
            self.answers[id] = answer

    def resume(self) -> None:
        self.is_resumed = False
        sent = tuple(id for id in self.caller.outstanding if id <= self.highest_sent)
        self.send(wire.Resume(1, self.session, self.caller.floor, sent))

    def flush(self) -> None:
        if self.caller.owes_ack:
            self.send(wire.Ack(*self.caller.take_acks()))

    def receive(self, message: object) -> None:
        if isinstance(message, wire.Result):
            assert message.session == self.session, "another session's result"
            if message.error is None:
                assert bytes(message.tensors).strip(b".") == payload((message.session, message.id)), "another result"
            self.settle(message.id, "ok" if message.error is None else message.error.code)
        elif isinstance(message, wire.SendAgain):
            for id in message.ids:
                if self.caller.get(id) is not None:
                    self.send(msgspec.structs.replace(self.calls[id], attempt=1))
        elif isinstance(message, wire.WhoAreYou):
            self.resume()
        else:
            assert isinstance(message, wire.Resumed)
            self.is_resumed = True
            for id in self.caller.outstanding:
                if id > self.highest_sent:
                    self.ask(id)


def payload(key: RequestKey) -> bytes:
    """The answer that only this request has."""
    return b"%s/%d" % (key[0].hex().encode(), key[1])


class Replica:
    """A replica's process: the real Holdings, and the loop around it. Runs one request at a time."""

    def __init__(self, number: int) -> None:
        self.id = ReplicaId(f"r{number}")
        self.holdings = Holdings(OUTBOX_BYTES)
        self.inbox: dict[RequestKey, None] = {}
        self.running: RequestKey | None = None
        self.ran: Tally[RequestKey] = Tally()
        self.link: Link | None = None
        self.is_alive = True

    @property
    def credit(self) -> tuple[int, int]:
        return (0, 0) if self.holdings.is_full else CREDIT

    def send(self, message: object) -> None:
        if self.link is not None:
            self.link.up.append(message)

    def inventory(self) -> None:
        held = self.holdings
        self.send(wire.Inventory(1, held.epoch, held.fence, held.unfinished, held.finished, *self.credit))

    def work(self, size_bytes: int) -> None:
        """Ends what runs, or else begins what came first."""
        if self.running is not None:
            key, self.running = self.running, None
            body = msgspec.Raw(payload(key).ljust(size_bytes, b"."))
            self.holdings.finish(key, wire.Result(*key, body), size_bytes)
            self.send(wire.Result(*key, body, credit_requests=self.credit[0], credit_bytes=self.credit[1]))
        elif self.inbox and not self.holdings.is_full:
            key = next(iter(self.inbox))
            del self.inbox[key]
            if self.holdings.is_wanted(key):
                self.running = key
                self.ran[key] += 1
            else:
                self.holdings.drop(key)
                error = wire.ErrorInfo(Cancelled.code, "released")
                self.send(wire.Result(*key, error=error, credit_requests=CREDIT[0], credit_bytes=CREDIT[1]))

    def release(self, keys: tuple[RequestKey, ...]) -> None:
        was_full = self.holdings.is_full
        for key in keys:
            self.holdings.release(key)
        if was_full and not self.holdings.is_full:
            self.send(wire.Credit(*self.credit))

    def fetch(self, keys: tuple[RequestKey, ...]) -> None:
        for key in keys:
            result = self.holdings.result(key)
            if isinstance(result, wire.Result):
                self.send(
                    msgspec.structs.replace(result, credit_requests=self.credit[0], credit_bytes=self.credit[1])
                )
        if not all([self.holdings.want(key) for key in keys]):
            self.inventory()

    def receive(self, message: object) -> None:
        if isinstance(message, wire.Work):
            self.release(message.releases)
            if self.holdings.take(message.epoch, message.seq, (message.session, message.id)):
                self.inbox[message.session, message.id] = None
        elif isinstance(message, wire.Release):
            self.release(message.keys)
        elif isinstance(message, wire.Fetch):
            self.fetch(message.keys)
        elif isinstance(message, wire.Census):
            self.holdings.census(message.epoch, message.fence)
            self.inventory()
        else:
            assert isinstance(message, wire.WhoAreYou)
            self.inventory()


class World:
    """All processes, the connections between them, and the clock."""

    def __init__(self, clients: int, replicas: int) -> None:
        self.now = 100.0
        self.links: dict[bytes, Link] = {}
        self.clients = [Client(number) for number in range(clients)]
        self.replicas: list[Replica] = []
        self.strangers: set[bytes] = set()
        self.crashed: dict[ReplicaId, frozenset[RequestKey]] = {}
        self.retiring: set[ReplicaId] = set()
        self.ran: Tally[RequestKey] = Tally()
        self.excused: set[RequestKey] = set()
        self.wanted_replicas, self.hired = replicas, 0
        self.epoch = Epoch(0)
        self.start_broker()
        self.route()
        for endpoint in (*self.clients, *self.replicas):
            self.connect(endpoint)

    # --- deaths and connections

    def start_broker(self) -> None:
        """A new broker, in a new epoch; an old one is dead, with all its connections."""
        for endpoint in (*self.clients, *self.replicas):
            self.sever(endpoint)
        self.excused.update((client.session, id) for client in self.clients for id in client.calls)
        self.epoch = Epoch(self.epoch + 1)
        self.strangers.clear()
        self.exchange = Exchange(LIMITS, self.now)

    def connect(self, endpoint: Client | Replica) -> None:
        self.sever(endpoint)
        link = Link(b"%d" % (len(self.links) + 1), endpoint)
        self.links[link.name] = endpoint.link = link
        if isinstance(endpoint, Client):
            endpoint.resume()
        else:
            endpoint.inventory()

    def sever(self, endpoint: Client | Replica, noticed: bool = False) -> None:
        """Breaks the connection. Where the broker does not notice, it goes on writing into the void."""
        link, endpoint.link = endpoint.link, None
        if link is None:
            return
        link.up.clear()
        link.down.clear()
        if isinstance(endpoint, Client):
            endpoint.is_resumed = False
        if noticed:
            gone = self.exchange.client_gone if isinstance(endpoint, Client) else self.exchange.replica_gone
            gone(link.name, self.now)
            self.carry_out()

    def end(self, endpoint: Client | Replica, noticed: bool) -> None:
        endpoint.is_alive = False
        self.sever(endpoint, noticed)
        if isinstance(endpoint, Replica):
            self.replicas.remove(endpoint)
            self.excused.update((*endpoint.ran, *endpoint.holdings.unfinished, *endpoint.holdings.finished))

    def route(self) -> None:
        """The controller sees who is alive, starts replacements and tells the broker."""
        missing = self.wanted_replicas - sum(each.id not in self.retiring for each in self.replicas)
        self.replicas += [Replica(self.hired + number) for number in range(missing)]
        self.hired += max(0, missing)
        roster = tuple(each.id for each in self.replicas)
        for dead in self.exchange.replicas.keys() - set(roster):
            self.excused.update(self.exchange.replicas[dead].entries)
        self.exchange.route(
            {EndpointName("echo"): NAME},
            [Deployment(NAME, METHODS, "again", roster)],
            crashed=frozenset(self.crashed),
            retiring=frozenset(self.retiring),
            now=self.now,
        )
        self.carry_out()
        for name in self.strangers:
            self.down(name, wire.WhoAreYou())
        self.strangers.clear()

    # --- the broker's process around the exchange

    def down(self, name: bytes, message: object) -> None:
        link = self.links[name]
        if link.owner.link is link:
            link.down.append(message)

    def receive(self, link: Link, message: object) -> None:
        if isinstance(link.owner, Client):
            self.receive_from_client(link, message)
        else:
            self.receive_from_replica(link, link.owner.id, message)
        self.carry_out()

    def receive_from_client(self, link: Link, message: object) -> None:
        if isinstance(message, wire.Resume):
            session = self.exchange.resume(
                SessionId(message.nonce),
                link.name,
                identity="somebody",
                floor=message.floor,
                outstanding=message.outstanding,
                now=self.now,
            )
            self.down(link.name, wire.Resumed(1, self.epoch, session.id, LIMITS.session_bytes))
            return
        found = self.exchange.session_of(link.name)
        if found is None:
            self.down(link.name, wire.WhoAreYou())
            return
        assert isinstance(message, (wire.Request, wire.Ack))
        self.exchange.ack(found, message.floor, message.acks, self.now)
        if isinstance(message, wire.Request):
            size_bytes = len(bytes(message.tensors))
            call = Call(
                message.id, message.endpoint, message.method, message, size_bytes, message.remaining_ms, message.priority
            )
            self.exchange.request(found, call, self.now)

    def receive_from_replica(self, link: Link, id: ReplicaId, message: object) -> None:
        if isinstance(message, wire.Inventory):
            known = self.exchange.inventory(
                id,
                link.name,
                unfinished=message.unfinished,
                finished=message.finished,
                fence=message.fence if message.epoch == self.epoch else 0,
                credit=(message.credit_requests, message.credit_bytes),
                now=self.now,
            )
            if not known:
                self.strangers.add(link.name)
            return
        replica = self.exchange.replica_of(link.name)
        if replica is None:
            self.down(link.name, wire.WhoAreYou())
            return
        assert isinstance(message, (wire.Result, wire.Credit))
        credit = (message.credit_requests, message.credit_bytes)
        if isinstance(message, wire.Credit):
            self.exchange.credit(replica, credit, self.now)
            return
        key = (message.session, message.id)
        if message.error is not None and message.error.code == Cancelled.code:
            self.exchange.dropped(replica, key, credit=credit, now=self.now)
        else:
            size_bytes = len(bytes(message.tensors))
            self.exchange.answered(replica, key, body=message, size_bytes=size_bytes, credit=credit, now=self.now)

    def carry_out(self) -> None:
        for action in self.exchange.take():
            if isinstance(action, act.Give):
                entry = action.entry
                assert isinstance(entry.body, wire.Request), "a request is given without its body"
                work = wire.Work(
                    self.epoch, action.seq, entry.session.id, entry.id, entry.body.method, entry.body.tensors,
                    releases=action.releases,
                )  # fmt: skip
                self.down(action.connection, work)
            elif isinstance(action, act.Forward):
                self.down(action.connection, action.body)
            elif isinstance(action, act.Tell):
                self.check_tell(action)
                error = wire.ErrorInfo(action.error.code, action.error.message)
                self.down(action.connection, wire.Result(action.session, action.id, error=error))
            elif isinstance(action, act.Ask):
                self.down(action.connection, wire.SendAgain(action.ids))
            elif isinstance(action, act.Fetch):
                self.down(action.connection, wire.Fetch(action.keys))
            elif isinstance(action, act.Release):
                self.down(action.connection, wire.Release(action.keys))
            elif isinstance(action, act.Census):
                self.down(action.connection, wire.Census(self.epoch, action.fence))
            elif isinstance(action, act.Probe):
                if self.links[action.connection].owner.link is not self.links[action.connection]:
                    self.exchange.client_gone(action.connection, self.now)
            elif isinstance(action, act.ReportIdle):
                self.retire(action.replica)

    def retire(self, id: ReplicaId) -> None:
        """A drained replica is stopped; this is no death, so nothing that it ran may run again."""
        replica = next((each for each in self.replicas if each.id == id), None)
        if replica is not None:
            replica.is_alive = False
            self.sever(replica)
            self.replicas.remove(replica)

    def check_tell(self, action: act.Tell) -> None:
        key = (action.session, action.id)
        if isinstance(action.error, PoisonRequest):
            assert any(running <= {key} for running in self.crashed.values()), "convicted, and it never ran alone"
        elif isinstance(action.error, OutcomeUnknown):
            call = next(each for each in self.clients if each.session == key[0]).calls[key[1]]
            assert call.method == "once" and key in self.excused, "no process died"

    # --- time

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for session in self.exchange.sessions.values():
            if session.connection is None and self.now - session.away_since >= LIMITS.session_linger_s:
                # To the broker this client is dead.
                self.excused.update((session.id, Counter(id)) for id in range(1, 1000))
        self.exchange.tick(self.now)
        self.carry_out()
        for client in self.clients:
            for id in client.caller.expired(self.now):
                client.settle(id, DeadlineExceeded.code)

    def flush(self) -> None:
        self.exchange.flush()
        self.carry_out()

    # --- messages

    def lanes(self) -> list[tuple[Link, list[object]]]:
        links = [each.link for each in (*self.clients, *self.replicas) if each.link is not None]
        return [(link, lane) for link in links for lane in (link.up, link.down) if lane]

    def deliver(self, link: Link, lane: list[object], place: int) -> None:
        message = lane.pop(place)
        if lane is link.up:
            self.receive(link, message)
        else:
            link.owner.receive(message)

    def deliver_all(self, rounds: int = 3) -> None:
        """Everything that is under way arrives, in order."""
        for _ in range(rounds):
            for link, lane in self.lanes():
                for _ in range(len(lane)):
                    if lane:
                        self.deliver(link, lane, 0)

    def work(self, replica: Replica, size_bytes: int) -> None:
        before = sum(replica.ran.values())
        replica.work(size_bytes)
        if sum(replica.ran.values()) > before:
            assert replica.running is not None
            self.ran[replica.running] += 1
            self.check_runs(replica.running)

    def check_runs(self, key: RequestKey) -> None:
        call = next(each for each in self.clients if each.session == key[0]).calls[key[1]]
        assert self.ran[key] == 1 or call.method == "again", "a request that must not run twice ran twice"
        assert self.ran[key] == 1 or key in self.excused, "a request ran twice, and no process died"

    # --- what must be true at any time

    def check_books(self) -> None:
        exchange = self.exchange
        entries = [entry for session in exchange.sessions.values() for entry in session.entries.values()]
        queued = [entry for entry in entries if entry.state is State.QUEUED]
        assert exchange.queued == len(queued) == sum(each.count for each in exchange.queues.values())
        assert sum(each.size_bytes for each in exchange.queues.values()) == sum(each.size_bytes for each in queued)
        assert {id(each) for queue in exchange.queues.values() for each in queue.all()} == {id(each) for each in queued}
        assert exchange.held_bytes == sum(entry.size_bytes for entry in entries)
        for session in exchange.sessions.values():
            held = session.entries.values()
            assert session.held_bytes == sum(entry.size_bytes for entry in held)
            assert session.sent_bytes == sum(entry.size_bytes for entry in held if entry.state is State.DONE)
        for entry in entries:
            assert (entry.body is None) == (entry.state not in (State.QUEUED, State.RUNNING))
            assert entry.state not in (State.ABSENT, State.SETTLED)
            if entry.replica is not None:
                assert entry.replica.entries[entry.session.id, entry.id] is entry
                assert exchange.replicas[entry.replica.id] is entry.replica
        for replica in exchange.replicas.values():
            unfinished = [entry for entry in replica.entries.values() if UNFINISHED[entry.state]]
            assert all(entry.replica is replica for entry in replica.entries.values())
            assert replica.waiting == len(unfinished)
            assert replica.waiting_bytes == sum(entry.size_bytes for entry in unfinished)
            assert not replica.exclusive or any(entry.suspect for entry in unfinished)
        self.check_loads()

    def check_loads(self) -> None:
        load = self.exchange.load(NAME)
        able = [replica for replica in self.exchange.replicas.values() if replica.has_credit()]
        assert len(load) == len(able)
        best = load.pick()
        assert (best.waiting if best is not None else None) == min((each.waiting for each in able), default=None)

    # --- the end: everything is well again

    def heal(self) -> None:
        """From now on the network is perfect and nobody dies."""
        for endpoint in (*self.clients, *self.replicas):
            self.sever(endpoint, noticed=True)
        self.retiring.clear()
        self.route()
        for endpoint in (*self.clients, *self.replicas):
            if endpoint.is_alive:
                self.connect(endpoint)
        for _ in range(200):
            self.deliver_all()
            for replica in self.replicas:
                self.work(replica, 40)
            for client in self.clients:
                if client.is_alive:
                    client.flush()
            self.flush()
            self.exchange.probe()
            self.carry_out()
            self.deliver_all()
            self.check_books()
            if self.is_quiet():
                return
            self.advance(2.0)
        raise AssertionError("the service does not come to rest: " + self.describe())

    def is_quiet(self) -> bool:
        return (
            not self.lanes()
            and not any(len(client.caller) for client in self.clients if client.is_alive)
            and not any(session.entries for session in self.exchange.sessions.values())
            and not any(each.holdings.unfinished or each.holdings.finished for each in self.replicas)
        )

    def describe(self) -> str:
        entries = [
            f"{entry.session.id[0]}/{entry.id} {State(entry.state).name} at {entry.replica and entry.replica.id}"
            for session in self.exchange.sessions.values()
            for entry in session.entries.values()
        ]
        held = [f"{each.id}: {each.holdings.unfinished} {each.holdings.finished}" for each in self.replicas]
        waits = [f"{each.session[0]}: {each.caller.outstanding}" for each in self.clients if each.is_alive]
        return f"entries {entries}, replicas {held}, clients {waits}, messages {[lane for _, lane in self.lanes()]}"

    def check_end(self) -> None:
        exchange = self.exchange
        assert exchange.held_bytes == exchange.queued == 0
        assert all(session.held_bytes == session.sent_bytes == 0 for session in exchange.sessions.values())
        assert all(not each.waiting and not each.entries and not each.exclusive for each in exchange.replicas.values())
        assert all(each.holdings.kept_bytes == 0 for each in self.replicas)
        allowed = {"ok", Overloaded.code, PoisonRequest.code, OutcomeUnknown.code}
        for client in self.clients:
            if client.is_alive:
                assert client.answers.keys() == client.calls.keys(), "a request was lost"
            for id, answer in client.answers.items():
                deadline = client.calls[id].remaining_ms is not None
                assert answer in allowed or answer == "given up" or (deadline and answer == DeadlineExceeded.code)
                assert answer != PoisonRequest.code or self.crashed


NUMBER = st.integers(0, 11)


class RecoveryMachine(RuleBasedStateMachine):
    """What can happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(clients=2, replicas=2)

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
    def client_asks(self, who: int, method: str, size_bytes: int, hurry: bool, count: int) -> None:
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
    def client_breaks(self, who: int, noticed: bool) -> None:
        client = self.client(who)
        if client is not None:
            self.world.sever(client, noticed)

    @rule(who=NUMBER, noticed=st.booleans())
    def client_dies(self, who: int, noticed: bool) -> None:
        client = self.client(who)
        if client is not None and who == 0:
            self.world.end(client, noticed)

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
    def replica_breaks(self, who: int, noticed: bool) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.sever(replica, noticed)

    @rule(who=NUMBER, noticed=st.booleans())
    def replica_crashes(self, who: int, noticed: bool) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.crashed[replica.id] = frozenset(replica.holdings.unfinished)
            self.world.end(replica, noticed)

    @rule(who=NUMBER, noticed=st.booleans())
    def pilot_is_lost(self, who: int, noticed: bool) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.end(replica, noticed)

    @rule(who=NUMBER)
    def replica_retires(self, who: int) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.retiring.add(replica.id)
            self.world.route()

    @rule()
    def controller_speaks(self) -> None:
        self.world.route()

    @rule()
    def broker_dies(self) -> None:
        self.world.start_broker()

    @rule(who=NUMBER)
    def broker_dies_and_one_replica_is_late(self, who: int) -> None:
        """The others are back before the grace is over; what the late one holds is given out once more."""
        late = self.replica(who)
        self.world.start_broker()
        self.world.route()
        for endpoint in (*self.world.clients, *self.world.replicas):
            if endpoint.is_alive and endpoint is not late:
                self.world.connect(endpoint)
        self.world.deliver_all()
        self.world.advance(LIMITS.recovery_grace_s + 1.0)
        self.world.deliver_all()

    @rule()
    def everybody_comes_back(self) -> None:
        self.world.route()
        for endpoint in (*self.world.clients, *self.world.replicas):
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
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
