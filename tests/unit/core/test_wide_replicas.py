"""Wide replicas beside narrow ones: where they go, who makes room for whom, and who waits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from hpcserve.core.capacity import lack_of_room, limit_in_words, most_replicas, shared_room
from hpcserve.core.deployments import reconcile
from hpcserve.core.fleetbook import Action
from hpcserve.core.fleetview import Pilot, Policy, StartReplica, SubmitPilot, View, Wanted
from hpcserve.core.rollout import Version
from hpcserve.core.scaling import Demand, Scale
from hpcserve.core.width import Ranks, Width
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from tests.unit.core.test_fleet_machine import ALIVE, PEACE_S, AgentProcess
from tests.unit.core.test_wide_fleet_machine import GPUS, WIDE, WideAgent, WideMachine

N, W, X = DeploymentName("narrow"), DeploymentName("wide"), DeploymentName("other")
ONE, NODE, BOTH = Version("v1", "f(x)"), Version("v3", "f(x)", Ranks(4)), Version("v5", "f(x)", Ranks(8, nodes=2))
SCALE = Scale(least=0, most=100, hot=0, idle_s=60.0)


class World(WideMachine):
    """Pilots of two nodes with four slots each, in which all goes well."""

    versions: tuple[Version, ...] = (*WIDE, Version("v6", "f(x)", Ranks(3)))

    def __init__(self, max_pilots: int) -> None:
        super().__init__()
        self.fleet.policy = replace(self.fleet.policy, max_pilots=max_pilots)
        self.submitted: list[SubmitPilot] = []

    def carry_out(self, actions: tuple[Action, ...]) -> None:
        self.submitted += [each for each in actions if isinstance(each, SubmitPilot)]
        super().carry_out(actions)

    def deploy(self, name: DeploymentName, version: Version, replicas: int) -> None:
        self.wanted[name] = (version, replicas)
        self.fleet.want(name, version, replicas)
        self.settle()

    def settle(self, rounds: int = 12) -> None:
        for _ in range(rounds):
            self.now += 1.0
            for agent in self.jobs.values():
                if agent is not None:
                    agent.ends_s = self.now + PEACE_S
            self.play_nicely()
            self.limits_hold()

    def demand(self, **queued: int) -> None:
        self.now += 5.0
        counted = {
            DeploymentName(name): Demand(came=count, queued=count, running=0, workers=0, service_s=1.0)
            for name, count in queued.items()
        }
        self.fleet.demand(counted, self.now)
        self.settle()

    @property
    def held(self) -> Counter[DeploymentName]:
        return Counter(each.deployment for each in self.fleet.replicas.values() if not each.ended)

    @property
    def agents(self) -> list[WideAgent]:
        return [each for each in self.jobs.values() if isinstance(each, WideAgent)]

    def crash(self, agent: AgentProcess) -> None:
        """One replica of an agent ends, and is not replaced for a moment."""
        name = next(name for name, state in agent.replicas.items() if state in ALIVE)
        agent.replicas[name] = "exited"

    def lack(self, name: DeploymentName) -> str:
        known = self.fleet.deployments
        return lack_of_room(self.fleet.policy, known[name], known.values(), list(self.fleet.replicas.values()))


def test_one_for_which_no_pilot_has_room_gets_another_pilot() -> None:
    world = World(3)
    world.deploy(N, ONE, 2)
    world.deploy(W, BOTH, 1)
    assert world.held == {N: 2, W: 1}
    assert len(world.jobs) == 2
    assert sorted(sum(agent.used.values()) for agent in world.agents) == [2, 8], "it is in one pilot"


def test_a_narrow_one_does_not_eat_the_pilot_that_came_for_a_wide_one_while_its_own_comes() -> None:
    policy = Policy(max_pilots=4, slots=8, idle_s=60.0, nodes=2)
    small = Pilot(pilot=PilotId("A"), phase="queued", slots=4, size=4, reported=False, idle_since_s=0.0)
    full = Pilot(pilot=PilotId("B"), phase="running", slots=8, size=8, reported=True, idle_since_s=0.0)
    narrow = Wanted(name=N, version="v", replicas=1, waits_since_s=1.0)
    wide = Wanted(name=W, version="v", replicas=1, waits_since_s=2.0, width=Width(2, 4))
    view = View(policy=policy, wanted=(narrow, wide), pilots=(small, full), replicas=(), seed="s", next_number=1)
    assert reconcile(view, 9.0) == (StartReplica(ReplicaId("wide-s1"), W, "v", PilotId("B")),)
    more = replace(view, wanted=(replace(narrow, replicas=5), wide))
    first = reconcile(more, 9.0)[0]
    assert first == StartReplica(ReplicaId("narrow-s1"), N, "v", PilotId("B")), "what comes has no room for these"


def test_a_pilot_has_nodes_for_the_widest_of_those_that_it_is_for() -> None:
    world = World(3)
    world.deploy(W, BOTH, 1)
    world.deploy(N, Version("v4", "f(x)", Ranks(4, nodes=2)), 1)
    told = [(each.lacking, each.nodes, each.least_nodes) for each in world.submitted]
    assert told == [(8, 2, 2), (4, 2, 2)], "two slots of each of two nodes are more than four of one"
    assert world.held == {W: 1, N: 1}


def test_narrow_ones_that_are_in_the_way_move_where_all_have_room() -> None:
    world = World(2)
    world.deploy(N, ONE, 4)
    world.deploy(X, ONE, 6)
    assert len(world.jobs) == 2
    world.deploy(X, ONE, 2)
    world.deploy(W, BOTH, 1)
    assert world.held == {N: 4, X: 2, W: 1}
    assert sorted(sum(agent.used.values()) for agent in world.agents) == [6, 8]
    begun = len(world.started)
    world.settle(30)
    assert len(world.started) == begun, "and stay where they are"


def test_they_move_from_one_node_to_the_other_of_the_only_pilot() -> None:
    world = World(1)
    world.deploy(N, ONE, 8)
    world.deploy(N, ONE, 2)
    assert [dict(agent.used) for agent in world.agents] == [{"n1": 1, "n2": 1}]
    world.deploy(W, NODE, 1)
    assert world.held == {N: 2, W: 1}
    assert sorted(world.agents[0].used.values()) == [2, 4]


def test_the_only_one_that_is_in_the_way_serves_until_another_does_where_there_is_room_for_that() -> None:
    world = World(2)
    for name in (N, X):
        world.deploy(name, ONE, 8)
    for name in (N, X):
        world.deploy(name, ONE, 1)
    assert sorted(sum(agent.used.values()) for agent in world.agents) == [1, 1]
    world.wanted[W] = (BOTH, 1)
    world.fleet.want(W, BOTH, 1)
    begun = len(world.started)
    for _ in range(20):
        world.settle(1)
        serving = {
            each.deployment for each in world.fleet.replicas.values() if each.state == "ready" and not each.ended
        }
        assert {N, X} <= serving, "nobody is without a replica while another is set up"
    assert world.held == {N: 1, X: 1, W: 1}
    assert len(world.started) == begun + 2, "one moved, once"


def test_those_that_moved_do_not_come_back_before_the_wide_one_is_there() -> None:
    world = World(2)
    world.deploy(N, ONE, 16)
    world.deploy(N, ONE, 4)
    assert sorted(slots for agent in world.agents for slots in agent.used.values() if slots) == [2, 2]
    world.deploy(W, NODE, 3)
    assert world.held == {N: 4, W: 3}
    assert len(world.started) == 16 + 2 + 3, "those of one node moved, once"


def test_where_there_is_not_room_for_all_nobody_ends_for_a_wide_one_which_gets_what_becomes_free() -> None:
    world = World(1)
    world.deploy(N, ONE, 8)
    world.deploy(W, NODE, 1)
    assert world.held == {N: 8}, "they were promised as much"
    assert world.lack(W) == (
        "at most 2 replicas of 4 slots fit into this site: pilots.max_pilots 1 × pilots.nodes 2 × pilots.slots 4, "
        "and narrow has 8; undeploy one, or deploy with fewer replicas"
    )
    for left in (7, 6, 5, 4):
        (agent,) = world.agents
        on_n1 = [name for name, nodes in agent.on.items() if nodes == ("n1",) and agent.replicas.get(name) in ALIVE]
        agent.replicas[on_n1[0]] = "exited"
        world.settle()
        assert world.held[N] == left, "nobody overtakes it"
    assert world.held == {N: 4, W: 1}
    world.deploy(N, ONE, 4)
    world.deploy(W, NODE, 2)
    world.deploy(W, NODE, 1)
    assert world.held == {N: 4, W: 1}


def test_what_is_started_at_once_has_room_at_its_agent() -> None:
    world = World(1)
    halves, both = Version("v2", "g(x)", Ranks(2)), Version("v4", "f(x)", Ranks(4, nodes=2))
    for name, version in ((N, halves), (X, halves), (W, both)):
        world.wanted[name] = (version, 1)
        world.fleet.want(name, version, 1)
    world.settle()
    assert world.held == {N: 1, X: 1, W: 1}
    assert all(each.state == "ready" and each.nodes for each in world.fleet.replicas.values())


class GpuWorld(World):
    """Pilots of two nodes with two GPUs each, of which two slots share one."""

    versions = GPUS
    per_gpu = 2


def test_one_that_takes_a_whole_gpu_is_not_started_onto_halves_of_two_but_these_are_cleared() -> None:
    world = GpuWorld(1)
    world.deploy(N, GPUS[0], 8)
    (agent,) = world.agents
    kept = {name for name, found in agent.places.items() if found.ranks[0][0] % 2 == 0}
    world.wanted[N] = (GPUS[0], 4)
    for name in agent.replicas.keys() - kept:
        agent.replicas[name] = "exited"
    world.fleet.want(N, GPUS[0], 4)
    world.settle()
    assert {name for name, state in agent.replicas.items() if state in ALIVE} == kept, "half of each GPU is held"
    world.deploy(W, GPUS[1], 2)
    assert world.held == {N: 4, W: 2}
    assert all(each.state == "ready" and each.nodes for each in world.fleet.replicas.values())


def without_its_second_node(world: World) -> PilotId:
    """The only pilot loses a node, and with it the replica that was on both."""
    ((pilot, agent),) = world.jobs.items()
    assert agent is not None
    agent.nodes = ("n1",)
    for name in agent.replicas:
        agent.replicas[name] = "exited"
    world.settle()
    return pilot


def test_a_lost_node_takes_its_slots_and_the_group_goes_elsewhere() -> None:
    world = World(2)
    world.deploy(W, BOTH, 1)
    pilot = without_its_second_node(world)
    assert world.fleet.pilots[pilot].slots == 4
    assert world.held == {W: 1}
    assert {each.pilot for each in world.fleet.replicas.values() if not each.ended} == set(world.jobs) - {pilot}


def test_a_pilot_that_lost_a_node_makes_place_for_a_whole_one() -> None:
    world = World(1)
    world.deploy(W, BOTH, 1)
    pilot = without_its_second_node(world)
    assert pilot not in world.jobs
    assert len(world.jobs) == 1
    assert world.held == {W: 1}


def test_a_small_pilot_is_outgrown_by_one_replica_for_which_it_has_too_few_nodes() -> None:
    world = World(1)
    world.deploy(N, ONE, 1)
    (small,) = world.jobs
    assert world.fleet.pilots[small].slots == 4
    world.deploy(N, ONE, 0)
    world.deploy(W, BOTH, 1)
    assert small not in world.jobs
    assert world.held == {W: 1}


@pytest.mark.parametrize(("before", "after"), [(ONE, NODE), (NODE, ONE), (NODE, BOTH), (BOTH, NODE)])
def test_a_version_of_another_width_takes_over_in_the_only_pilot(before: Version, after: Version) -> None:
    world = World(1)
    most = most_replicas(world.fleet.policy, before.ranks)
    world.deploy(W, before, most)
    assert world.held == {W: most}
    most = most_replicas(world.fleet.policy, after.ranks)
    world.deploy(W, after, most)
    world.settle(60)
    assert world.held == {W: most}
    assert {each.version for each in world.fleet.replicas.values()} == {after}


def test_one_whose_slots_are_free_but_do_not_lie_together_says_who_has_the_others() -> None:
    world = World(1)
    world.deploy(N, Version("v6", "f(x)", Ranks(3)), 2)
    world.deploy(W, Version("v2", "g(x)", Ranks(2)), 1)
    assert world.held == {N: 2}
    assert world.lack(W) == (
        "at most 4 replicas of 2 slots fit into this site: pilots.max_pilots 1 × pilots.nodes 2 × pilots.slots 4, "
        "and narrow has 2 of 3 slots; undeploy one, or deploy with fewer replicas"
    )


def test_one_that_never_fits_gets_no_pilot_and_says_why() -> None:
    world = World(2)
    world.deploy(W, Version("v5", "f(x)", Ranks(8)), 1)
    assert world.jobs == {}
    assert world.lack(W) == (
        "ranks.size 8 on 1 node takes 8 slots of each, and a node has pilots.slots 4: use fewer ranks, more "
        "ranks.nodes, or raise pilots.slots in the site file"
    )
    world.deploy(N, ONE, 16)
    assert world.held == {N: 16}, "it is in nobody's way"


def test_to_none_and_back() -> None:
    world = World(2)
    world.fleet.want(W, BOTH, 0, SCALE)
    world.wanted[W] = (BOTH, 0)
    world.demand(wide=1)
    assert world.held == {W: 1}
    world.demand(wide=1000)
    assert world.held == {W: 2}
    world.fleet.demand({W: Demand(came=1000, queued=0, running=0, workers=2)}, world.now)
    world.now += 61.0
    world.fleet.demand({W: Demand(came=1000, queued=0, running=0, workers=2)}, world.now)
    world.settle(80)
    assert world.held == {}
    assert world.jobs == {}, "they had nothing to run"
    world.demand(wide=1001)
    assert world.held[W] >= 1


def test_what_is_scaled_shares_slots() -> None:
    world = World(2)
    for name, version in ((N, ONE), (W, NODE)):
        world.fleet.want(name, version, 0, SCALE)
        world.wanted[name] = (version, 0)
    world.demand(narrow=6000, wide=6000)
    assert world.held == {N: 8, W: 2}
    assert shared_room(world.fleet.policy, world.fleet.deployments[W], world.fleet.deployments.values()) == (
        "it wants 100, and room for 16 slots is shared by 2 deployments"
    )


def test_one_that_needs_all_the_room_waits_for_those_that_have_it_and_not_for_those_that_come_later() -> None:
    world = World(1)
    for name, version in ((N, ONE), (W, BOTH), (X, ONE)):
        world.fleet.want(name, version, 0, SCALE)
        world.wanted[name] = (version, 0)
    world.demand(narrow=6000)
    assert world.held == {N: 8}
    world.demand(narrow=3, wide=1)
    assert world.held == {N: 8}, "who is asked keeps what it has"
    world.now += 61.0
    world.demand(narrow=1, wide=1, other=1)
    assert world.held == {N: 1}, "and who came later does not overtake"
    world.now += 61.0
    world.demand(narrow=0, wide=2, other=2)
    world.now += 61.0
    world.demand(narrow=0, wide=3, other=3)
    assert world.held == {W: 1}


def test_how_many_fit() -> None:
    policy = Policy(max_pilots=2, slots=12, idle_s=1.0, nodes=3)
    assert [most_replicas(policy, Ranks(*ranks)) for ranks in ((1, 1), (3, 1), (4, 2), (4, 1), (6, 3), (12, 3))] == [
        24,
        6,
        6,
        6,
        4,
        2,
    ]
    assert limit_in_words(policy, Ranks(12, 3)).startswith("at most 2 replicas of 12 slots fit into this site: ")
