"""Queue, batches and retry together, in any order of events: no request is lost, doubled or starved.

What must hold at any time, and in the end, is written in :class:`~tests.unit.core.load_world.LoadWorld`. For a longer
search than that of the test suite: ``python -m tests.unit.core.test_load_machine --steps 100000 --seed 1``.
"""

from __future__ import annotations

import argparse
import time

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.unit.core.load_peers import LoadClient, LoadReplica
from tests.unit.core.load_world import LoadWorld

NUMBER = st.integers(0, 11)
STEPS = 60
KINDS = ["g", "g", "g", "gg", "gggg", "", "r", "gn", "ng", "gm", "w", "c", "gcg"]
COSTS_S = [(0.001, 0.0), (0.01, 0.001), (0.05, 0.0001), (0.0, 0.02), (0.3, 0.01)]


class LoadMachine(RuleBasedStateMachine):
    """What can happen, in any order."""

    taken = 0
    """The steps of all machines together."""

    def __init__(self) -> None:
        super().__init__()
        self.world = LoadWorld(clients=4, replicas=2)
        self.world.deliver_all()

    def client(self, number: int) -> LoadClient:
        living = [each for each in self.world.callers if each.is_alive]
        return living[number % len(living)]

    def replica(self, number: int) -> LoadReplica | None:
        living = self.world.workers
        return living[number % len(living)] if living else None

    # --- the load

    @rule(
        who=NUMBER,
        method=st.sampled_from(["again", "again", "few", "once"]),
        requests=st.lists(st.sampled_from(KINDS), min_size=1, max_size=8),
        shape=st.sampled_from("aab"),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        within_s=st.sampled_from([float("inf"), float("inf"), 20.0, 1.0, 0.2, 0.05, 0.0]),
    )
    def client_asks(
        self, *, who: int, method: str, requests: list[str], shape: str, priority: int, within_s: float
    ) -> None:
        for kinds in requests:
            self.client(who).submit(method, kinds, shape, priority, within_s)

    @rule(count=st.integers(2, 25))
    def everybody_asks(self, count: int) -> None:
        for client in self.world.callers:
            if client.is_alive:
                for number in range(count if client is self.client(0) else 1):
                    client.submit("again", "gg", "a", number % 3 // 2, float("inf"))

    @rule(who=NUMBER, which=NUMBER)
    def client_gives_up(self, *, who: int, which: int) -> None:
        client = self.client(who)
        if client.caller.outstanding:
            waits = client.caller.outstanding
            client.settle(waits[which % len(waits)], "given up")
            client.flush()

    @rule(who=NUMBER, noticed=st.booleans())
    def client_breaks(self, *, who: int, noticed: bool) -> None:
        self.world.sever(self.client(who), noticed=noticed)

    @rule(who=NUMBER)
    def client_connects(self, who: int) -> None:
        self.world.connect(self.client(who))

    @rule(noticed=st.booleans())
    def first_client_dies(self, *, noticed: bool) -> None:
        if self.world.clients[0].is_alive:
            self.world.end(self.world.clients[0], noticed=noticed)

    # --- the replicas

    @rule(who=NUMBER)
    def replica_goes_on(self, who: int) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.step(replica)

    @rule(rounds=st.integers(1, 4))
    def all_goes_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.go_on()
            self.world.advance(max(0.001, self.world.next_event() - self.world.now))

    @rule(replicas=st.integers(0, 4))
    def deployment_is_scaled(self, replicas: int) -> None:
        self.world.scale(replicas)

    @rule(who=NUMBER, noticed=st.booleans())
    def pilot_is_lost(self, *, who: int, noticed: bool) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.end(replica, noticed=noticed)

    @rule(who=NUMBER, noticed=st.booleans())
    def replica_breaks(self, *, who: int, noticed: bool) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.sever(replica, noticed=noticed)

    @rule(who=NUMBER)
    def node_loses_its_power(self, who: int) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.cut_off(replica)

    @rule(who=NUMBER, requests=st.sampled_from([0.5, 0.9, 1.5, 20.0]), count=st.integers(0, 4))
    def pilot_nears_its_end(self, *, who: int, requests: float, count: int) -> None:
        """So many of the longest requests would take all that is left to it; and some come."""
        replica = self.replica(who)
        if replica is not None:
            self.world.near_end(replica, requests)
            for _ in range(count):
                self.client(who).submit("again", "g", "a", 0, float("inf"))
            self.world.deliver_all()

    @rule(who=NUMBER)
    def replica_connects(self, who: int) -> None:
        replica = self.replica(who)
        if replica is not None:
            self.world.connect(replica)

    @rule(cost_s=st.sampled_from(COSTS_S))
    def method_costs_something_else(self, cost_s: tuple[float, float]) -> None:
        self.world.cost_s = cost_s

    @rule(objective_s=st.sampled_from([None, 0.001, 0.05, 1.0]))
    def deployment_is_tuned(self, objective_s: float | None) -> None:
        self.world.tune(objective_s)

    @rule(who=NUMBER, seconds=st.sampled_from([0.0, 0.01, 2.0]))
    def what_a_replica_runs_is_given_up(self, *, who: int, seconds: float) -> None:
        replica = self.replica(who)
        if replica is None:
            return
        self.world.deliver_all()
        if replica.batch is None:
            self.world.begin(replica)
            self.world.deliver_all()
        if replica.batch is not None:
            self.world.give_up({task.key for task in replica.batch.tasks})
            self.world.deliver_all()
            self.world.advance(seconds)

    @rule(after_s=st.sampled_from([None, 0.0, 0.05, 1.0]))
    def cancelled_runs_are_killed(self, after_s: float | None) -> None:
        self.world.kill_cancelled(after_s)

    @rule(max_queue_bytes=st.sampled_from([float("inf"), 200.0, 40.0]))
    def queue_is_bounded(self, max_queue_bytes: float) -> None:
        self.world.bound(max_queue_bytes)

    # --- the broker, the controller, time

    @rule()
    def controller_speaks(self) -> None:
        self.world.route()

    @rule(is_sent=st.booleans())
    def broker_dies_and_everybody_comes_back(self, *, is_sent: bool) -> None:
        if is_sent:
            self.world.deliver_all()
        self.world.start_broker()
        self.world.route()
        for endpoint in self.world.endpoints:
            if endpoint.is_alive:
                self.world.connect(endpoint)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 11.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def broker_flushes(self) -> None:
        self.world.flush()

    # --- messages

    @rule()
    def all_arrives(self) -> None:
        self.world.deliver_all()

    @precondition(lambda self: self.world.lanes())
    @rule(where=NUMBER)
    def oldest_message_arrives(self, where: int) -> None:
        lanes = self.world.lanes()
        link, lane = lanes[where % len(lanes)]
        self.world.deliver(link, lane, 0)

    @precondition(lambda self: self.world.lanes())
    @rule(where=NUMBER, place=NUMBER, how=st.sampled_from(["early", "twice", "never"]))
    def message_goes_astray(self, *, where: int, place: int, how: str) -> None:
        lanes = self.world.lanes()
        link, lane = lanes[where % len(lanes)]
        place %= len(lane)
        if how == "early":
            self.world.deliver(link, lane, place)
        elif how == "twice":
            lane.append(lane[place])
        else:
            lane.pop(place)

    @invariant()
    def books_agree(self) -> None:
        LoadMachine.taken += 1
        self.world.check_books()

    def teardown(self) -> None:
        self.world.heal()
        self.world.check_end()


CHOSEN = settings(
    max_examples=60,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

TestLoad = LoadMachine.TestCase
TestLoad.settings = CHOSEN


def main() -> None:
    """Searches until so many steps were taken; another seed takes other ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    began, seed = time.monotonic(), wanted.seed
    while LoadMachine.taken < wanted.steps:
        examples = max(10, (wanted.steps - LoadMachine.taken) // STEPS)
        searching = settings(CHOSEN, max_examples=examples, derandomize=False, database=None, print_blob=True)
        run_state_machine_as_test(hypothesis.seed(seed)(LoadMachine), settings=searching)
        seed += 1
    took_s = time.monotonic() - began
    print(f"{LoadMachine.taken} steps in {took_s:.0f} s from seed {wanted.seed}: nothing lost, doubled or starved")


if __name__ == "__main__":
    main()
