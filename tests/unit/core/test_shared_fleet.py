"""Deployments that together want more replicas than there is room for: each has its share, and nobody starves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from hpcserve.core.capacity import lack_of_room, shared_room
from hpcserve.core.fleetbook import Action
from hpcserve.core.fleetview import Policy, RetireReplica
from hpcserve.core.outlook import plan_in_words
from hpcserve.core.scaling import Demand, Scale
from hpcserve.types import DeploymentName
from tests.unit.core.test_scaled_fleet import V1, D, Site

NOTHING = Demand(came=0, queued=0, running=0, workers=0)
SCALE = Scale(least=0, most=100, hot=0, idle_s=60.0)
LOOK_S = 5.0
A, B, C, Z = NAMES = tuple(map(DeploymentName, "abcz"))


class Crowd(Site):
    """A site whose deployments are asked as the test says, each look anew, with requests of a second each."""

    def __init__(self, *, max_pilots: int = 3, slots: int = 2) -> None:
        super().__init__()
        self.fleet.unwant(D)
        self.fleet.policy = Policy(max_pilots=max_pilots, slots=slots, idle_s=100.0)
        self.came: Counter[DeploymentName] = Counter()

    def want(self, *names: DeploymentName, scale: Scale = SCALE) -> None:
        for name in names:
            self.fleet.want(name, V1, 0, scale)

    def look(self, queued: dict[DeploymentName, int], seconds: float = LOOK_S) -> list[Action]:
        """So many requests of each deployment wait, and what follows is done."""
        self.pass_time(seconds)
        self.came.update(queued)
        counted = {
            name: replace(NOTHING, came=self.came[name], queued=queued.get(name, 0), service_s=1.0)
            for name in self.fleet.deployments
        }
        self.fleet.demand(counted, self.now)
        return self.settle()

    @property
    def held(self) -> Counter[DeploymentName]:
        return Counter(each.deployment for each in self.fleet.replicas.values() if not each.ended)

    def plan(self, name: DeploymentName) -> str:
        known = self.fleet.deployments[name]
        room = shared_room(self.fleet.policy, known, self.fleet.deployments.values())
        return plan_in_words(known, here=self.held[name], queued=0, sharing=0, starts_at="", room=room)

    def lack(self, name: DeploymentName) -> str:
        known = self.fleet.deployments
        return lack_of_room(self.fleet.policy, known[name], known.values(), list(self.fleet.replicas.values()))


def ended(did: list[Action]) -> int:
    return sum(isinstance(each, RetireReplica) for each in did)


def test_one_that_is_scaled_to_the_brim_makes_room_for_one_that_has_none() -> None:
    site = Crowd()
    site.want(A, B)
    site.look({A: 6000})
    assert site.held == {A: 6}
    did = site.look({A: 6000, B: 1})
    assert site.held == {A: 5, B: 1}
    assert ended(did) == 1
    site.look({A: 6000, B: 6000})
    assert site.held == {A: 3, B: 3}
    site.look({A: 6000}, SCALE.idle_s + 1)
    assert site.held == {A: 6}, "the other has nothing to do any more"


def test_a_hundred_small_ones_and_two_that_are_greedy() -> None:
    site = Crowd(max_pilots=8, slots=16)
    small = [DeploymentName(f"d{number:02}") for number in range(100)]
    site.want(A, Z)
    site.want(*small, scale=replace(SCALE, most=1))
    site.look({A: 60_000})
    site.look({A: 60_000, Z: 60_000})
    assert site.held == {A: 64, Z: 64}
    everything = {A: 60_000, Z: 60_000, **dict.fromkeys(small, 1)}
    site.look(everything)
    assert site.held == {A: 14, Z: 14, **dict.fromkeys(small, 1)}
    for _ in range(5):
        assert site.look(everything) == []


def test_what_was_promised_is_kept() -> None:
    site = Crowd()
    site.fleet.want(B, V1, 3)
    site.want(A)
    site.want(C, scale=replace(SCALE, least=2))
    site.look({A: 6000, C: 6000})
    assert site.held == {A: 1, B: 3, C: 2}


def test_a_demand_that_comes_and_goes_moves_no_replicas_to_and_fro() -> None:
    site = Crowd()
    site.want(A, B)
    site.look({A: 6000, B: 6000})
    for number in range(40):
        assert site.look({A: 6000, B: 6000 if number % 8 == 0 else number % 3}) == []
        assert site.held == {A: 3, B: 3}


def test_of_more_deployments_than_slots_those_come_in_turn_who_have_waited_longest() -> None:
    site = Crowd(max_pilots=1)
    site.want(A, B, C, Z)
    site.look({Z: 1, C: 1})
    site.look({Z: 1, C: 1, B: 1})
    site.look({Z: 1, C: 1, B: 1, A: 1})
    site.want(B)  # deployed again it does not wait anew
    asked = {Z: 1, B: 1, A: 1}
    for _ in range(100):
        if C not in site.held:
            break
        assert site.held == {Z: 1, C: 1}, "those who are asked all the time keep theirs"
        site.look(asked)
    assert site.held == {Z: 1, B: 1}, "it came before the other"
    assert site.fleet.deployments[A].waits_since_s < site.now
    assert site.look(asked) == []


def test_the_plan_tells_who_shares_the_room() -> None:
    site = Crowd()
    site.want(A, B)
    site.fleet.want(C, V1, 1)
    site.look({A: 1800, B: 60})
    assert site.plan(B) == "1 replica, because 60 requests wait"
    assert site.plan(A) == (
        "4 replicas, because 1,800 requests wait; it wants 30, and room for 6 replicas, of which 1 is promised, "
        "is shared by 3 deployments"
    )
    assert site.lack(A) == "", "it has its share"
    site.fleet.want(C, V1, 6)
    site.settle()
    assert site.plan(B) == (
        "no replica, because 60 requests wait; it wants 1, and room for 6 replicas, of which 6 are promised, "
        "is shared by 3 deployments"
    )
    assert site.lack(C) == ""
    site.fleet.unwant(C)
    site.settle()
    assert site.plan(A).endswith("it wants 30, and room for 6 replicas is shared by 2 deployments")


def test_a_new_controller_shares_what_it_finds_as_the_old_one_did() -> None:
    site = Crowd()
    site.want(A, B)
    site.look({A: 6000, B: 6000})
    site.want(A, B)
    assert site.look({A: 6000, B: 6000}) == []


@settings(max_examples=40)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1, 30, 200, 6000]), max_size=len(NAMES)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 2),
)
def test_whatever_is_asked_nobody_has_nothing_while_another_has_two(
    looks: list[dict[DeploymentName, int]], max_pilots: int, fixed: int
) -> None:
    site = Crowd(max_pilots=max_pilots)
    site.want(*NAMES)
    site.fleet.want(D, V1, fixed)
    for queued in looks:
        site.look(queued)
        assert site.fleet.step(site.now) == ()
        assert site.held.total() <= 2 * max_pilots
        assert site.held[D] == fixed
        if not all(site.held[name] for name in queued):
            assert all(site.held[name] <= 1 for name in NAMES)
            assert site.held.total() == 2 * max_pilots, "no room is left"
