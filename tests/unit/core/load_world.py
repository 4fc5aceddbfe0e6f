"""A whole service under load: sessions in turn, priorities, deadlines, batches that fail, refusals, and time.

To what must hold of the recovery (:mod:`tests.unit.core.recovery_world`) is added who is served when, and that nobody
fails for another.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict
from typing import cast

from hpcserve.core import actions as act
from hpcserve.core.exchange import Limits
from hpcserve.core.lanes import LATEST_S
from hpcserve.core.ledger import NEVER, Entry, State
from hpcserve.errors import DeadlineExceeded, OutcomeUnknown, Overloaded, PoisonRequest
from hpcserve.types import Epoch, ReplicaId, RequestKey, SessionId
from hpcserve.wire import messages as wire
from tests.unit.core.load_peers import LoadClient, LoadReplica, Model, outcomes_of
from tests.unit.core.recovery_peers import Client, Link, Replica
from tests.unit.core.recovery_world import NAME, World

PATIENCE_S = 6 * LATEST_S
"""What the end of a recovery and the refused requests' way back take at most: after a replica has stood still the rate
is wrong, a client comes back up to twice as late as the daemon has asked for, and there may be no room for all."""

RUNS = 3
"""So many times its time alone a request may take of its replica: with crashers beside it, and in batches that fail."""

Waiting = tuple[int, SessionId]
"""A priority, and a session that has requests of it in the queue."""


class LoadWorld(World):
    """Clients, one broker after the other, batching replicas that come, drain and go."""

    kills = 0
    """The replicas, of all worlds, that were killed since nobody waited for what they ran."""

    limits = Limits(
        broker_bytes=900,
        session_bytes=500,
        max_queued=20,
        recovery_grace_s=10.0,
        session_linger_s=60.0,
        hang_grace_s=5.0,
        census_s=30.0,
    )
    methods = {"again": True, "few": True, "once": False}  # noqa: RUF012

    def __init__(self, clients: int, replicas: int) -> None:
        self.cost_s = 0.01, 0.001
        self.objective_s: float | None = None
        self.overtaken: dict[Waiting, Tally[SessionId]] = defaultdict(Tally)
        self.in_line: dict[Waiting, set[Entry]] = {}
        self.doomed: dict[ReplicaId, Epoch] = {}
        self.away: set[ReplicaId] = set()
        super().__init__(clients, replicas)

    def clock(self) -> float:
        return self.now

    def new_client(self, number: int) -> Client:
        return LoadClient(number, self.clock)

    def new_replica(self, number: int) -> Replica:
        replica = LoadReplica(number, self.clock)
        replica.sizes.tune(self.objective_s, None)
        replica.says_runs = self.kill_cancelled_s is not None
        return replica

    @property
    def callers(self) -> list[LoadClient]:
        return cast("list[LoadClient]", self.clients)

    @property
    def workers(self) -> list[LoadReplica]:
        return cast("list[LoadReplica]", self.replicas)

    def tune(self, objective_s: float | None) -> None:
        self.objective_s = objective_s
        for replica in self.workers:
            replica.sizes.tune(objective_s, None)

    def kill_cancelled(self, after_s: float | None) -> None:
        self.kill_cancelled_s = after_s
        for replica in self.workers:
            replica.says_runs = after_s is not None
        self.route()

    def bound(self, max_queue_bytes: float) -> None:
        self.max_queue_bytes = max_queue_bytes
        self.route()

    def scale(self, replicas: int) -> None:
        self.wanted_replicas = replicas
        staying = [each.id for each in self.replicas if each.id not in self.retiring]
        self.retiring.update(staying[replicas:])
        self.route()

    def call_of(self, key: RequestKey) -> wire.Request:
        return next(each for each in self.clients if each.session == key[0]).calls[key[1]]

    # --- the work

    def begin(self, replica: LoadReplica) -> bool:
        if not replica.begin(*self.cost_s):
            return False
        if replica.batch is not None:
            for task in replica.batch.tasks:
                self.ran[task.key] += 1
                self.check_runs(task.key)
        return True

    def finish(self, replica: LoadReplica) -> None:
        """What a replica runs takes its time, and is over."""
        assert replica.batch is not None
        if self.now < replica.batch.ends:
            self.advance(replica.batch.ends - self.now)
        if not replica.is_alive:
            return
        if replica.batch.results:
            replica.end()
        else:
            self.crashed[replica.id] = frozenset(replica.holdings.unfinished)
            self.end(replica, noticed=True)

    def step(self, replica: LoadReplica) -> None:
        if replica.batch is None:
            self.begin(replica)
        else:
            self.finish(replica)

    # --- who is served, and who fails

    def do(self, actions: list[act.AnyAction]) -> None:
        self.look_at_the_line()
        for action in actions:
            if isinstance(action, act.Give):
                self.check_time(action.entry)
                if not action.entry.suspect:
                    self.check_turn(action.entry)
            elif isinstance(action, act.ReportAway):
                self.away.add(ReplicaId(action.subject))
            elif isinstance(action, act.ReportUnwanted):
                self.check_unwanted(action.replica)
                self.doomed[action.replica] = self.epoch
        super().do(actions)

    def check_time(self, given: Entry) -> None:
        """It is expected to be over before its replica's pilot is, or takes longer than half of what pilots last."""
        replica = given.replica
        assert replica is not None
        if replica.id in self.ends_at:
            ends_at = self.ends_at[replica.id]
            half_s = (ends_at - replica.known_since) / 2
            assert self.now < ends_at, "given to a pilot that is over"
            assert self.now < ends_at - min(replica.lane.longest.s, half_s), "given, and not expected to be finished"

    def check_unwanted(self, id: ReplicaId) -> None:
        """Nobody waits for what the broker knows to run there. A client that it takes for dead may come back."""
        waits = {(each.session, id) for each in self.callers if each.is_alive for id in each.caller.outstanding}
        assert not waits.intersection(self.exchange.replicas[id].runs) - self.excused, "killed under a client's eyes"

    def give_up(self, keys: set[RequestKey]) -> None:
        for client in self.callers:
            for id in client.caller.outstanding if client.is_alive else ():
                if (client.session, id) in keys:
                    client.settle(id, "given up")
            client.flush()

    def kill_the_doomed(self) -> None:
        """What was reported is killed soon, and whatever was given to it meanwhile is lost."""
        doomed, self.doomed = self.doomed, {}
        for replica in self.workers:
            if replica.id not in doomed:
                continue
            LoadWorld.kills += 1
            if doomed[replica.id] == self.epoch:
                for entry in self.exchange.replicas[replica.id].entries.values():
                    is_lost = not entry.idempotent and entry.state is State.RUNNING
                    assert not is_lost, "killed with what must not run twice"
            self.end(replica, noticed=True)

    def near_end(self, replica: LoadReplica, requests: float) -> None:
        """The controller learns when its pilot ends: so many times the longest request from now."""
        longest_s = self.exchange.lane(NAME).longest.s
        self.ends_at[replica.id] = self.now + requests * (longest_s or 1.0)
        self.route()

    def cut_off(self, replica: LoadReplica) -> None:
        """Its node falls silent; it is taken out when the broker has reported it, and never heard of again."""
        self.sever(replica, noticed=True)
        for _ in range(int(self.limits.unreachable_s) + 1):
            self.advance(1.0)
        self.route()

    def end_the_lost(self) -> None:
        """Those who are away, and those whose pilots are over."""
        away, self.away = self.away, set()
        for replica in self.workers:
            is_away = replica.id in away and replica.link is None
            if is_away or self.ends_at.get(replica.id, NEVER) <= self.now:
                self.end(replica, noticed=True)

    def route(self) -> None:
        self.kill_the_doomed()
        self.end_the_lost()
        super().route()

    def advance(self, seconds: float) -> None:
        self.kill_the_doomed()
        self.end_the_lost()
        super().advance(seconds)

    def carry_out(self) -> None:
        super().carry_out()
        self.look_at_the_line()

    def start_broker(self) -> None:
        self.overtaken.clear()
        self.in_line = {}
        super().start_broker()

    def queued(self) -> list[Entry]:
        """What is in the queue, and may run beside others."""
        return [each for each in self.exchange.lane(NAME).queue.all() if not each.suspect]

    def look_at_the_line(self) -> None:
        """A session is in line from when it has something queued until that is given out, or taken out."""
        in_line: dict[Waiting, set[Entry]] = defaultdict(set)
        for entry in self.queued():
            in_line[entry.priority, entry.session.id].add(entry)
        for waiting, before in self.in_line.items():
            left = before - in_line.get(waiting, set())
            if waiting not in in_line or any(each.state is State.RUNNING for each in left):
                self.overtaken.pop(waiting, None)
        self.in_line = dict(in_line)

    def receive_from_client(self, link: Link, message: object) -> None:
        session = self.exchange.session_of(link.name)
        is_new = isinstance(message, wire.Request) and session is not None and message.id not in session.entries
        super().receive_from_client(link, message)
        if is_new:
            assert session is not None
            assert isinstance(message, wire.Request)
            entry = session.entries.get(message.id)
            if entry is not None and entry.state is State.QUEUED and entry.deadline > self.now:
                self.check_room(entry)

    def check_room(self, entry: Entry) -> None:
        """A request was queued that had not been taken before: it fits, with all that is before it for certain."""
        first = [each for each in self.queued() if each is not entry and each.priority > entry.priority]
        same = [each for each in self.queued() if each is not entry and each.priority == entry.priority]
        own = [each for each in same if each.session is entry.session]
        before_bytes = sum(each.size_bytes for each in (*first, *own))
        assert before_bytes + entry.size_bytes <= self.max_queue_bytes, "queued beyond max_queue_bytes"

    def check_turn(self, given: Entry) -> None:
        """Highest priority first, then the sessions in turn, then the earliest deadline."""
        for waiting in self.queued():
            assert waiting.priority <= given.priority, "a more urgent request waits"
            if waiting.priority == given.priority and waiting.session is given.session:
                assert (waiting.deadline, waiting.place) > (given.deadline, given.place), "an earlier deadline waits"
        self.overtaken.pop((given.priority, given.session.id), None)
        others = {each.session.id for each in self.queued() if each.priority == given.priority} - {given.session.id}
        for other in others:
            overtakers = self.overtaken[given.priority, other]
            overtakers[given.session.id] += 1
            assert overtakers[given.session.id] <= 1, "a session was served twice while another one waited"

    def check_tell(self, action: act.Tell) -> None:
        super().check_tell(action)
        if isinstance(action.error, PoisonRequest):
            assert PoisonRequest.code in outcomes_of(self.call_of((action.session, action.id))), "convicted for a mate"

    def check_books(self) -> None:
        super().check_books()
        lane = self.exchange.lane(NAME)
        idle = lane.load.pick_idle()
        assert idle is None or not lane.queue.count, f"{idle.id} is idle while {lane.queue.count} wait"

    # --- the end

    def heal(self) -> None:
        """From now on the network is perfect, and nobody dies but of what it runs. Time goes from event to event."""
        for endpoint in self.endpoints:
            self.sever(endpoint, noticed=True)
        self.retiring.clear()
        self.ends_at.clear()
        self.wanted_replicas = max(1, self.wanted_replicas)
        self.route()
        for endpoint in self.endpoints:
            if endpoint.is_alive:
                self.connect(endpoint)
        until = self.now + self.bound_s()
        while not self.is_quiet():
            waits = any(len(each.caller) for each in self.clients if each.is_alive)
            assert self.now <= until + (0.0 if waits else self.limits.session_linger_s), f"starved: {self.describe()}"
            self.advance(max(0.001, self.next_event() - self.now))
            self.go_on()
            self.check_cancelled()

    def check_cancelled(self) -> None:
        """What a client does not wait for is not run: every replica that has not begun it knows."""
        waits = {(each.session, id) for each in self.clients for id in each.caller.outstanding}
        dead = {each.session for each in self.clients if not each.is_alive}
        for replica in self.workers:
            for task in replica.waiting.tasks():
                is_over = task.key not in waits and task.key[0] not in dead
                assert not (is_over and replica.holdings.is_wanted(task.key)), "what was cancelled is going to run"

    def bound_s(self) -> float:
        """In so much time all that is waited for is served, by one replica."""
        model = Model(*self.cost_s)
        alone_s = 0.0
        for client in self.callers:
            for call in client.calls.values():
                alone_s += model.fixed_s + model.per_sample_s * len(bytes(call.tensors)) / 8
        # What a dead client has sent and not acknowledged takes room from the others until its session is over.
        linger_s = 0.0 if all(each.is_alive for each in self.clients) else self.limits.session_linger_s
        return PATIENCE_S + linger_s + RUNS * alone_s

    def next_event(self) -> float:
        if self.lanes() or any(each.can_begin for each in self.workers):
            return self.now
        ends = [each.batch.ends for each in self.workers if each.batch is not None]
        company = [each.company_until for each in self.workers]
        due = [each.next_due() for each in self.callers if each.is_alive]
        return min([self.now + 1.0, *ends, *company, *due])

    def go_on(self) -> None:
        """What is under way arrives, and who can do something does it."""
        self.route()
        for endpoint in self.endpoints:
            if endpoint.is_alive and endpoint.link is None:
                self.connect(endpoint)
        self.deliver_all()
        for replica in list(self.workers):
            if replica.batch is not None and replica.batch.ends <= self.now:
                self.finish(replica)
            while replica.is_alive and self.begin(replica) and replica.batch is None:
                pass
        self.deliver_all()
        for client in self.clients:
            if client.is_alive:
                client.flush()
        self.deliver_all()
        self.flush()
        self.exchange.probe()
        self.carry_out()
        self.deliver_all()
        self.check_books()

    def check_end(self) -> None:
        exchange = self.exchange
        assert exchange.held_bytes == exchange.queued == 0
        assert all(session.held_bytes == session.sent_bytes == 0 for session in exchange.sessions.values())
        assert all(not each.waiting and not each.entries and not each.exclusive for each in exchange.replicas.values())
        assert all(each.holdings.kept_bytes == len(each.waiting) == 0 for each in self.workers)
        for client in self.callers:
            if client.is_alive:
                assert client.answers.keys() == client.calls.keys(), "a request was lost"
            for id, answer in client.answers.items():
                assert answer in self.allowed(client, (client.session, id)), f"{client.calls[id]}: {answer}"

    @staticmethod
    def allowed(client: LoadClient, key: RequestKey) -> set[str]:
        call = client.calls[key[1]]
        allowed = outcomes_of(call) | {"given up"}
        if client.deadlines[key[1]] != float("inf"):
            allowed |= {DeadlineExceeded.code, Overloaded.code}
        if call.method == "once":
            allowed.add(OutcomeUnknown.code)
        return allowed
