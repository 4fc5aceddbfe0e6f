"""A whole service without a network: clients, one broker after the other, replicas, and what must be true of them.

The broker's process is played here: it turns messages into events of the exchange and actions into messages.
"""

from __future__ import annotations

from collections import Counter as Tally

from hpcserve.core import actions as act
from hpcserve.core.exchange import Call, Exchange, Limits
from hpcserve.core.ledger import UNFINISHED, State
from hpcserve.core.routes import Deployment
from hpcserve.errors import Cancelled, DeadlineExceeded, OutcomeUnknown, Overloaded, PoisonRequest
from hpcserve.types import DeploymentName, EndpointName, Epoch, ReplicaId, RequestKey, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import error_to_wire
from tests.unit.core.recovery_peers import Client, Link, Replica

NAME = DeploymentName("echo@1")
METHODS = {"again": True, "once": False}
MAX_QUEUE_S = 3.0
LIMITS = Limits(
    broker_bytes=300,
    session_bytes=160,
    max_queued=8,
    recovery_grace_s=10.0,
    session_linger_s=60.0,
    hang_grace_s=5.0,
    census_s=30.0,
)


class World:
    """All processes, the connections between them, and the clock."""

    limits = LIMITS
    methods = METHODS

    def __init__(self, clients: int, replicas: int) -> None:
        self.now = 100.0
        self.links: dict[bytes, Link] = {}
        self.left: list[Link] = []
        self.clients = [self.new_client(number) for number in range(clients)]
        self.replicas: list[Replica] = []
        self.strangers: set[bytes] = set()
        self.crashed: dict[ReplicaId, frozenset[RequestKey]] = {}
        self.retiring: set[ReplicaId] = set()
        self.ends_at: dict[ReplicaId, float] = {}
        self.ran: Tally[RequestKey] = Tally()
        self.excused: set[RequestKey] = set()
        self.unheard_of: set[RequestKey] = set()
        self.wanted_replicas, self.hired = replicas, 0
        self.kill_cancelled_s: float | None = None
        self.max_queue_bytes = float("inf")
        self.epoch = Epoch(0)
        self.start_broker()
        self.route()
        for endpoint in self.endpoints:
            self.connect(endpoint)

    def new_client(self, number: int) -> Client:
        return Client(number)

    def new_replica(self, number: int) -> Replica:
        return Replica(number)

    @property
    def endpoints(self) -> list[Client | Replica]:
        return [*self.clients, *self.replicas]

    # --- deaths and connections

    def start_broker(self) -> None:
        """A new broker, in a new epoch; an old one is dead, with all its connections."""
        self.left.clear()
        for endpoint in self.endpoints:
            self.sever(endpoint)
        held = {key for replica in self.replicas for key in replica.held}
        sent = {(client.session, id) for client in self.clients for id in client.sent}
        self.unheard_of.update(sent - held)
        self.epoch = Epoch(self.epoch + 1)
        self.strangers.clear()
        self.exchange = Exchange(self.limits, self.now)
        self.has_roster = False
        self.grace_ends: float | None = None
        self.reported: set[ReplicaId] = set()

    def excuse_the_late(self) -> None:
        """What a replica holds that has not reported when a new broker's grace is over may run elsewhere, too."""
        if self.grace_ends is None or self.reported >= {each.id for each in self.replicas}:
            self.grace_ends = None
        elif self.now >= self.grace_ends:
            self.grace_ends = None
            for replica in self.replicas:
                if replica.id not in self.reported:
                    self.excused.update(replica.held)

    def connect(self, endpoint: Client | Replica) -> None:
        self.sever(endpoint)
        link = Link(b"%d" % (len(self.links) + 1), endpoint)
        self.links[link.name] = endpoint.link = link
        if isinstance(endpoint, Client):
            endpoint.resume()
        else:
            endpoint.inventory()

    def sever(self, endpoint: Client | Replica, *, noticed: bool = False) -> None:
        """Breaks the connection. Where the broker does not notice, it goes on writing into the void.

        Where it does, by a write that failed, what a client has sent may still be read.
        """
        link, endpoint.link = endpoint.link, None
        if link is None:
            return
        link.down.clear()
        if isinstance(endpoint, Client):
            endpoint.is_resumed = False
            link.up[:] = [each for each in link.up if noticed and not isinstance(each, wire.Resume)]
            self.left.append(link)
        else:
            link.up.clear()
        if noticed:
            gone = self.exchange.client_gone if isinstance(endpoint, Client) else self.exchange.replica_gone
            gone(link.name, self.now)
            self.carry_out()

    def end(self, endpoint: Client | Replica, *, noticed: bool) -> None:
        endpoint.is_alive = False
        self.sever(endpoint, noticed=noticed)
        if isinstance(endpoint, Replica):
            self.replicas.remove(endpoint)
            self.excused.update(endpoint.held)

    def route(self) -> None:
        """The controller sees who is alive, starts replacements and tells the broker."""
        missing = self.wanted_replicas - sum(each.id not in self.retiring for each in self.replicas)
        self.replicas += [self.new_replica(self.hired + number) for number in range(missing)]
        self.hired += max(0, missing)
        roster = tuple(each.id for each in self.replicas)
        for dead in self.exchange.replicas.keys() - set(roster):
            self.excused.update(self.exchange.replicas[dead].entries)
        self.exchange.route(
            {EndpointName("echo"): NAME},
            [
                Deployment(
                    NAME,
                    self.methods,
                    "again",
                    roster,
                    max_queue_bytes=self.max_queue_bytes,
                    max_queue_s=MAX_QUEUE_S,
                    kill_cancelled_s=self.kill_cancelled_s,
                )
            ],
            crashed=dict.fromkeys(self.crashed, "killed by signal 9 (SIGKILL)"),
            retiring=frozenset(self.retiring),
            giving_back=frozenset(self.retiring),
            ends_at=self.ends_at,
            now=self.now,
        )
        if not self.has_roster:
            self.has_roster, self.grace_ends = True, self.now + self.limits.recovery_grace_s
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
            self.down(link.name, wire.Resumed(1, self.epoch, session.id, self.limits.session_bytes))
            return
        found = self.exchange.session_of(link.name)
        if found is None:
            left = self.exchange.left_by(link.name)
            if left is not None and isinstance(message, wire.Ack):
                self.exchange.ack(left, message.floor, message.acks, self.now)
            elif left is not None and isinstance(message, wire.Bye):
                self.exchange.bye(left, self.now)
            self.down(link.name, wire.WhoAreYou())
            return
        assert isinstance(message, (wire.Request, wire.Ack, wire.Bye))
        if isinstance(message, wire.Ack):
            self.exchange.ack(found, message.floor, message.acks, self.now)
        elif isinstance(message, wire.Bye):
            self.exchange.bye(found, self.now)
        else:
            self.exchange.owe_ack(found, message.floor, message.acks)
            size_bytes = len(bytes(message.tensors))
            call = Call(
                message.id,
                message.endpoint,
                message.method,
                message,
                size_bytes,
                message.remaining_ms,
                message.priority,
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
            if known:
                self.reported.add(id)
            else:
                self.strangers.add(link.name)
            return
        replica = self.exchange.replica_of(link.name)
        if replica is None:
            self.down(link.name, wire.WhoAreYou())
            return
        if isinstance(message, wire.Runs):
            self.exchange.runs(replica, message.keys)
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
        self.excuse_the_late()
        while actions := self.exchange.take():
            self.do(actions)

    def do(self, actions: list[act.AnyAction]) -> None:
        for action in actions:
            if isinstance(action, act.Give):
                entry = action.entry
                assert isinstance(entry.body, wire.Request), "a request is given without its body"
                work = wire.Work(
                    self.epoch, action.seq, entry.session.id, entry.id, entry.body.method, entry.body.tensors,
                    remaining_ms=action.remaining_ms, priority=entry.priority, releases=action.releases,
                )  # fmt: skip
                self.down(action.connection, work)
            elif isinstance(action, act.Forward):
                self.down(action.connection, action.body)
            elif isinstance(action, act.Tell):
                self.check_tell(action)
                self.down(action.connection, wire.Result(action.session, action.id, error=error_to_wire(action.error)))
            elif isinstance(action, act.Ask):
                self.down(action.connection, wire.SendAgain(action.ids))
            elif isinstance(action, (act.Fetch, act.Release, act.GiveBack, act.Census)):
                self.down(action.connection, self.to_replica(action))
            elif isinstance(action, act.Probe):
                if self.links[action.connection].owner.link is not self.links[action.connection]:
                    self.exchange.client_gone(action.connection, self.now)
            elif isinstance(action, act.ReportIdle):
                self.retire(action.replica)

    def to_replica(self, action: act.Fetch | act.Release | act.GiveBack | act.Census) -> wire.Message:
        if isinstance(action, act.Fetch):
            return wire.Fetch(action.keys)
        if isinstance(action, act.Release):
            return wire.Release(action.keys)
        if isinstance(action, act.GiveBack):
            return wire.GiveBack(self.epoch, action.most)
        return wire.Census(self.epoch, action.fence)

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
            assert call.method == "once"
            assert key in self.excused or key in self.unheard_of, "its outcome is known to a replica that lives"

    # --- time

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for session in self.exchange.sessions.values():
            if session.connection is None and self.now - session.away_since >= self.limits.session_linger_s:
                # To the broker this client is dead.
                client = next(each for each in self.clients if each.session == session.id)
                self.excused.update((session.id, id) for id in client.sent)
        self.exchange.tick(self.now)
        self.carry_out()
        for client in self.clients:
            client.tick(self.now)

    def flush(self) -> None:
        self.exchange.flush()
        self.carry_out()

    # --- messages

    def lanes(self) -> list[tuple[Link, list[object]]]:
        self.left = [each for each in self.left if each.up]
        links = [each.link for each in self.endpoints if each.link is not None] + self.left
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
        assert self.ran[key] == 1 or self.methods[call.method], "a request that must not run twice ran twice"
        assert self.ran[key] == 1 or key in self.excused, "a request ran twice, and no process died"

    # --- what must be true at any time

    def check_books(self) -> None:
        exchange = self.exchange
        entries = [entry for session in exchange.sessions.values() for entry in session.entries.values()]
        queued = [entry for entry in entries if entry.state is State.QUEUED]
        assert exchange.queued == len(queued) == sum(each.queue.count for each in exchange.lanes.values())
        assert {id(each) for lane in exchange.lanes.values() for each in lane.queue.all()} == {
            id(each) for each in queued
        }
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
        assert exchange.counts.answered + exchange.counts.failed <= exchange.counts.requests
        self.check_loads()

    def check_loads(self) -> None:
        lane = self.exchange.lane(NAME)
        load = lane.load
        able = [replica for replica in self.exchange.replicas.values() if replica.has_credit()]
        assert len(load) == len(able)
        if lane.reserve is not None:
            assert len(lane.reserve) == sum(each.has_credit(urgent=True) for each in self.exchange.replicas.values())
        best = load.pick()
        assert (best.waiting if best is not None else None) == min((each.waiting for each in able), default=None)

    # --- the end: everything is well again

    def heal(self) -> None:
        """From now on the network is perfect and nobody dies."""
        for endpoint in self.endpoints:
            self.sever(endpoint, noticed=True)
        self.retiring.clear()
        self.route()
        for endpoint in self.endpoints:
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
