"""The books against a world in which jobs queue, agents come late, replicas crash and users change their minds.

The machine plays the scheduler, the agents, the broker and the users in any order. After each step the
limits hold and the decision is at rest; in the end, left in peace, the world becomes what was wanted.
"""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import Action, FailDeployment, ForgetReplica, PilotOrders, ReplicaLost, ReplicaSaid
from hpcserve.core.fleetview import CancelPilot, Policy, StartReplica, SubmitPilot
from hpcserve.core.pilotlife import GIVEN_UP_S
from hpcserve.core.rollout import Version
from hpcserve.core.shapes import Shape
from hpcserve.core.succession import Succession
from hpcserve.types import DeploymentName, LossKind, PilotId, ReplicaId

NODES = ("n1", "n2")
AGENT_HOST = "n1.cluster"
SLOTS = 2
MAX_PILOTS = 3
ALIVE = ("starting", "ready")
WALLTIME_S = 400.0
PEACE_S = 10_000.0
"""Those that begin in the end last longer."""
# The first and the last have the same methods.
VERSIONS = [Version("v1", "f(x)"), Version("v2", "g(x)"), Version("v3", "f(x)")]
NAMES = [DeploymentName(name) for name in ("a", "b", "c")]


class ThreeInARow:
    """Waits one second longer after each failure; gives up at the third that no ten good seconds parted."""

    def __init__(self) -> None:
        self.row = 0
        self.good_since_s: float | None = None

    def failed(self, now: float) -> float | None:
        if self.good_since_s is not None and now - self.good_since_s >= 10:
            self.row = 0
        self.good_since_s = None
        self.row += 1
        return None if self.row >= 3 else now + self.row

    def crashed(self, now: float) -> float:
        return now + 1

    def in_vain(self, crashes: int, *, worked: bool) -> int | None:
        return None

    def succeeded(self, now: float) -> None:
        self.good_since_s = now

    def forgive(self) -> None:
        self.row = 0


class AgentProcess:
    """An agent as :mod:`hpcserve.pilot` behaves, with replicas that are words."""

    def __init__(self, now: float, nodes: tuple[str, ...]) -> None:
        self.ends_s = now + WALLTIME_S
        self.nodes = nodes
        self.replicas: dict[ReplicaId, str] = {}
        self.hosts: dict[ReplicaId, str] = {}
        self.lost_with_their_nodes: set[ReplicaId] = set()
        self.usable = nodes
        self.ever: set[ReplicaId] = set()
        self.leaving = False
        self.is_cut_off = False

    @property
    def said(self) -> tuple[ReplicaSaid, ...]:
        return tuple(
            ReplicaSaid(
                replica,
                state,
                "why",
                kind="node failed" if replica in self.lost_with_their_nodes else "",
                host=self.hosts[replica],
            )
            for replica, state in self.replicas.items()
        )

    def obey(self, orders: PilotOrders) -> None:
        self.usable = tuple(node for node in self.nodes if node not in orders.lost_nodes)
        for replica, state in self.replicas.items():
            if state in ALIVE and self.hosts[replica] not in self.usable:
                self.replicas[replica] = "exited"
                self.lost_with_their_nodes.add(replica)
        for replica in orders.forget:
            if self.replicas.get(replica) in ("failed", "exited"):
                del self.replicas[replica]
        for replica, state in self.replicas.items():
            if state in ALIVE and (replica not in orders.run or replica in orders.kill):
                self.replicas[replica] = "exited"
        for replica in orders.run:
            if replica not in self.ever and replica not in orders.kill:
                self.ever.add(replica)
                running = Counter(self.hosts[each] for each, state in self.replicas.items() if state in ALIVE)
                self.hosts[replica] = min(self.usable, key=lambda node: running[node])
                self.replicas[replica] = "starting"
        if orders.stop:
            self.leave()

    def leave(self) -> None:
        self.leaving = True
        for replica, state in self.replicas.items():
            if state in ALIVE:
                self.replicas[replica] = "exited"


class FleetMachine(RuleBasedStateMachine):
    slots = SLOTS
    node_names: tuple[str, ...] = NODES
    versions: tuple[Version, ...] = tuple(VERSIONS)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.fleet = self.new_fleet("x")
        self.jobs: dict[PilotId, AgentProcess | None] = {}
        self.nodes: dict[PilotId, tuple[str, ...]] = {}
        self.only_small_ones_start_soon = False
        self.wanted: dict[DeploymentName, tuple[Version, int]] = {}
        self.failed: set[DeploymentName] = set()
        self.failed_s: dict[DeploymentName, float] = {}
        self.came_s = -math.inf
        """When a pilot reported first, or one began to work."""
        self.started: dict[ReplicaId, tuple[DeploymentName, Version]] = {}
        self.explained: set[ReplicaId] = set()
        self.controllers = 0

    def new_fleet(self, seed: str) -> Fleet:
        return Fleet(
            policy=Policy(
                max_pilots=MAX_PILOTS, slots=self.slots, idle_s=60.0, nodes=len(self.node_names), orphan_s=90.0
            ),
            seed=seed,
            restarts=ThreeInARow,
            pilot_restarts=ThreeInARow(),
            succession=Succession(walltime_s=WALLTIME_S, margin_s=10.0, first_wait_s=10.0),
        )

    def carry_out(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, SubmitPilot):
                assert action.pilot not in self.jobs
                self.jobs[action.pilot] = None
                is_enough = self.only_small_ones_start_soon or action.nodes < len(self.node_names)
                is_small = not action.full and action.least_nodes == 1 and is_enough
                self.nodes[action.pilot] = self.node_names[:1] if is_small else self.node_names
                self.shape(action.pilot)
            elif isinstance(action, CancelPilot):
                agent = self.jobs[action.pilot]
                if agent is None:
                    self.end_job(action.pilot)
                else:
                    agent.leave()
            elif isinstance(action, StartReplica):
                assert action.replica not in self.started
                version = next(each for each in self.versions if each.digest == action.version)
                self.started[action.replica] = (action.deployment, version)
                is_wanted = self.wanted[action.deployment][0].digest == action.version
                if is_wanted and action.deployment in self.failed:  # after a while, or where a pilot has come
                    failed_s = self.failed_s[action.deployment]
                    assert self.now >= failed_s + GIVEN_UP_S or self.came_s >= failed_s
                    self.failed.remove(action.deployment)
                assert is_wanted == (action.deployment not in self.failed)
            elif isinstance(action, FailDeployment):
                assert action.reason
                self.failed.add(action.deployment)
                self.failed_s[action.deployment] = self.now
            elif isinstance(action, ReplicaLost):
                assert action.loss.kind, "nobody is left without a cause"
                assert action.loss.replica not in self.explained, "one cause each"
                self.explained.add(action.loss.replica)
            elif isinstance(action, ForgetReplica):
                assert action.replica not in self.fleet.replicas

    def shape(self, pilot: PilotId) -> None:
        self.fleet.shaped(pilot, Shape(len(self.nodes[pilot]), WALLTIME_S))

    def agent_process(self, pilot: PilotId, began_s: float) -> AgentProcess:
        return AgentProcess(began_s, self.nodes[pilot])

    def step(self) -> None:
        self.carry_out(self.fleet.step(self.now))

    def end_job(self, pilot: PilotId, kind: LossKind = "crashed") -> None:
        del self.jobs[pilot]
        self.carry_out(self.fleet.job_ended(pilot, "gone", "output", self.now, kind=kind))

    def exchange(self, pilot: PilotId) -> None:
        """The agent reports, is told what to do, and reports again."""
        agent = self.jobs[pilot]
        if agent is None or agent.is_cut_off:
            return
        for _ in range(2):
            self.adopt_replicas(pilot, agent)
            before = self.is_there(pilot)
            actions = self.fleet.reported(
                pilot,
                agent.said,
                ends_s=agent.ends_s,
                leaving=agent.leaving,
                now=self.now,
                slots=len(agent.usable) * self.slots // len(self.node_names),
                host=AGENT_HOST,
            )
            if self.is_there(pilot) != before:
                self.came_s = self.now
            self.carry_out(actions)
            agent.obey(self.fleet.orders(pilot))

    def is_there(self, pilot: PilotId) -> tuple[bool, bool]:
        """Whether a pilot has reported, and whether a replica was ready in it."""
        known = self.fleet.pilots.get(pilot)
        return (False, False) if known is None else (known.reported, known.proven)

    def adopt_replicas(self, pilot: PilotId, agent: AgentProcess) -> None:
        """Those that run, of which the controller has not heard yet: an earlier one had started them."""
        for replica, state in agent.replicas.items():
            deployment, version = self.started[replica]
            is_new = replica not in self.fleet.replicas and not self.fleet.has_named(replica)
            if state in ALIVE and is_new and deployment in self.wanted:
                self.fleet.adopt_replica(replica, deployment, version, pilot)

    def some_job(self, data: st.DataObject) -> PilotId:
        return data.draw(st.sampled_from(sorted(self.jobs)))

    @rule(name=st.sampled_from(NAMES), version=st.sampled_from(VERSIONS), replicas=st.integers(0, 4))
    def want(self, name: DeploymentName, version: Version, replicas: int) -> None:
        self.wanted[name] = (version, replicas)
        self.failed.discard(name)
        self.fleet.want(name, version, replicas)
        self.step()

    @rule(name=st.sampled_from(NAMES))
    def unwant(self, name: DeploymentName) -> None:
        self.wanted.pop(name, None)
        self.failed.discard(name)
        self.fleet.unwant(name)
        self.step()

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 61.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        for pilot, agent in list(self.jobs.items()):
            if agent is not None and self.now >= agent.ends_s - 5:
                agent.leave()
                self.exchange(pilot)
        self.step()

    @rule(only=st.booleans())
    def queue_has_gaps(self, *, only: bool) -> None:
        self.only_small_ones_start_soon = only

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def job_starts(self, data: st.DataObject) -> None:
        pilot = self.some_job(data)
        self.jobs[pilot] = self.jobs[pilot] or self.agent_process(pilot, self.now)
        self.fleet.job_seen(pilot, "running")
        self.step()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def scheduler_is_silent(self, data: st.DataObject) -> None:
        self.fleet.job_seen(self.some_job(data), "unknown")
        self.step()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def agent_reports(self, data: st.DataObject) -> None:
        self.exchange(self.some_job(data))
        self.step()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), kind=st.sampled_from(["crashed", "out of memory", "unreachable", "cancelled", "preempted"]))
    def job_dies(self, data: st.DataObject, kind: LossKind) -> None:
        self.end_job(self.some_job(data), kind)
        self.step()

    @precondition(lambda self: any(agent is None for agent in self.jobs.values()))
    @rule(data=st.data(), lasting=st.booleans())
    def job_is_not_taken(self, data: st.DataObject, *, lasting: bool) -> None:
        pilot = data.draw(st.sampled_from(sorted(name for name, agent in self.jobs.items() if agent is None)))
        del self.jobs[pilot]
        self.carry_out(self.fleet.not_submitted(pilot, "no", self.now, lasting=lasting))
        self.step()

    @precondition(lambda self: any(agent and agent.replicas for agent in self.jobs.values()))
    @rule(data=st.data(), state=st.sampled_from(["ready", "ready", "failed", "exited"]))
    def replica_changes(self, data: st.DataObject, state: str) -> None:
        agents = [agent for _, agent in sorted(self.jobs.items()) if agent is not None and agent.replicas]
        agent = data.draw(st.sampled_from(agents))
        replica = data.draw(st.sampled_from(sorted(agent.replicas)))
        if agent.replicas[replica] in ALIVE:
            agent.replicas[replica] = state

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), kind=st.sampled_from(["preempted", "node failed"]))
    def job_is_requeued(self, data: st.DataObject, kind: LossKind) -> None:
        pilot = self.some_job(data)
        self.jobs[pilot] = None
        self.carry_out(self.fleet.requeued(pilot, "gone", self.now, kind=kind))
        assert not any(each.pilot == pilot for each in self.fleet.replicas.values())
        self.step()

    @precondition(lambda self: any(self.jobs.values()))
    @rule(data=st.data())
    def job_is_suspended(self, data: st.DataObject) -> None:
        self.fleet.job_seen(self.some_job(data), "suspended")
        self.step()

    @precondition(lambda self: any(self.jobs.values()))
    @rule(data=st.data(), agent_first=st.booleans())
    def pilot_is_cut_off(self, data: st.DataObject, *, agent_first: bool) -> None:
        """The broker loses the agent and its replicas, though they may live on."""
        pilot = data.draw(st.sampled_from(sorted(name for name, agent in self.jobs.items() if agent is not None)))
        agent = self.jobs[pilot]
        assert agent is not None
        agent.is_cut_off = True
        if agent_first:
            self.fleet.away(pilot, self.now)
        for replica in self.fleet.replicas.values():
            if replica.pilot == pilot:
                self.fleet.unreachable(replica.replica, "no connection", self.now)
        self.fleet.away(pilot, self.now)
        self.step()

    @precondition(lambda self: self.fleet.replicas)
    @rule(data=st.data(), for_s=st.sampled_from([4.0, 90.0]))
    def replica_is_cut_off(self, data: st.DataObject, for_s: float) -> None:
        replica = data.draw(st.sampled_from(sorted(self.fleet.replicas)))
        self.fleet.unreachable(replica, "no connection", self.now, for_s=for_s)
        self.step()

    @rule()
    def all_networks_are_mended(self) -> None:
        for pilot, agent in list(self.jobs.items()):
            if agent is not None:
                agent.is_cut_off = False
                self.exchange(pilot)
        self.step()

    @rule()
    def all_goes_well(self) -> None:
        """For a while, after which there is something to be lost."""
        for _ in range(3):
            self.now += 1.0
            self.play_nicely()

    @precondition(lambda self: self.fleet.replicas)
    @rule(data=st.data())
    def replica_hangs(self, data: st.DataObject) -> None:
        self.fleet.hung(data.draw(st.sampled_from(sorted(self.fleet.replicas))), "hung")
        self.step()

    @rule()
    def retiring_replicas_become_idle(self) -> None:
        for replica in self.fleet.replicas:
            self.fleet.idle(replica)
        self.step()

    @rule()
    def controller_restarts(self) -> None:
        """The next one knows what was written down, what is wanted and the pilots, and the agents tell the rest."""
        self.controllers += 1
        self.fleet = self.new_fleet(f"{self.controllers}y")
        self.failed.clear()
        self.explained.clear()
        for name, (version, replicas) in self.wanted.items():
            self.fleet.want(name, version, replicas)
        for pilot in self.jobs:
            self.fleet.adopt_pilot(pilot, self.slots, self.now)
            self.shape(pilot)
        self.step()

    @invariant()
    def limits_hold(self) -> None:
        assert len(self.jobs) <= 2 * MAX_PILOTS
        assert set(self.jobs) == set(self.fleet.pilots)
        for pilot, agent in self.jobs.items():
            alive = [known for known in self.fleet.replicas.values() if known.pilot == pilot and not known.ended]
            # What an earlier controller wrote down may have ended since.
            assert len(alive) <= self.slots or not self.fleet.pilots[pilot].reported
            assert len(self.fleet.orders(pilot).run) <= self.slots
            if agent is not None:
                running = [state for state in agent.replicas.values() if state in ALIVE]
                assert len(running) <= len(agent.nodes) * self.slots // len(self.node_names)

    @invariant()
    def no_agent_loses_its_own_node(self) -> None:
        for pilot in self.jobs:
            assert self.node_names[0] not in self.fleet.orders(pilot).lost_nodes

    @invariant()
    def callers_see_one_set_of_methods(self) -> None:
        resting = self.fleet.resting()
        for name in self.wanted:
            ready = [
                replica
                for replica in self.fleet.replicas.values()
                if replica.deployment == name and replica.state == "ready" and not (replica.ended or replica.kill)
            ]
            working = {each.version.signature for each in ready if each.replica not in resting}
            assert working == ({self.fleet.serving(name).signature} if ready else set())

    @invariant()
    def at_rest(self) -> None:
        for _ in range(2 * MAX_PILOTS):  # one that is smaller than was thought may ask for another
            self.step()
        assert self.fleet.step(self.now) == ()

    def teardown(self) -> None:
        for _ in range(400):
            self.now += 2.0
            self.play_nicely()
        self.assert_as_wanted()
        # Those that were replaced while they were away are back.
        assert len(self.jobs) <= MAX_PILOTS
        for name in list(self.wanted):
            self.unwant(name)
        for _ in range(80):
            self.now += 1.0
            self.play_nicely()
        assert self.jobs == {}
        assert self.fleet.replicas == {}

    def play_nicely(self) -> None:
        for pilot, agent in list(self.jobs.items()):
            if agent is not None:
                agent.is_cut_off = False
                agent.leaving |= self.now >= agent.ends_s - 5
            if agent is not None and agent.leaving:
                agent.leave()
                self.exchange(pilot)
                self.end_job(pilot)
                continue
            alive = agent or self.agent_process(pilot, self.now + PEACE_S)
            self.jobs[pilot] = alive
            self.fleet.job_seen(pilot, "running")
            for replica, state in alive.replicas.items():
                if state == "starting":
                    alive.replicas[replica] = "ready"
            self.exchange(pilot)
        for replica in self.fleet.replicas:
            self.fleet.idle(replica)
        self.step()

    def assert_as_wanted(self) -> None:
        ready: dict[DeploymentName, int] = {}
        for replica in self.fleet.replicas.values():
            assert replica.state == "ready"
            assert not replica.ended
            assert replica.deployment in self.wanted
            if replica.deployment not in self.failed:
                assert replica.version == self.wanted[replica.deployment][0]
            ready[replica.deployment] = ready.get(replica.deployment, 0) + 1
        if self.failed:
            return
        total = sum(replicas for _, replicas in self.wanted.values())
        assert sum(ready.values()) == min(total, MAX_PILOTS * self.slots)
        if total <= MAX_PILOTS * self.slots:
            assert ready == {name: replicas for name, (_, replicas) in self.wanted.items() if replicas}


FleetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestFleet = FleetMachine.TestCase
