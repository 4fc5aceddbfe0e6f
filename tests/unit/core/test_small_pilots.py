"""Small pilots and a demand that grows: none of them keeps a place for which a full one is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcserve.core.fleetbook import Action
from hpcserve.core.fleetview import CancelPilot, Policy, SubmitPilot
from hpcserve.core.rollout import Version
from hpcserve.core.shapes import Bounds, Shape, fitted
from hpcserve.types import DeploymentName, PilotId
from tests.unit.core.test_scaled_fleet import SCALE, V1, D, Site

NODES, SLOTS = 4, 2
BOUNDS = Bounds(full=Shape(NODES, 1e9), min_nodes=1, min_walltime_s=1e9, slots=SLOTS)
OTHER = DeploymentName("other")


class Gaps(Site):
    """A site whose scheduler starts a pilot when the test says so, and where pilots are as small as is enough."""

    def __init__(self, max_pilots: int, *, max_running: int | None = None, max_queued: int | None = None) -> None:
        super().__init__(None)
        policy = Policy(max_pilots=max_pilots, slots=NODES * SLOTS, idle_s=100.0, nodes=NODES)
        self.fleet.policy = replace(policy, max_running=max_running, max_queued=max_queued)
        self.most = 0

    def wish(self, replicas: int) -> list[Action]:
        self.fleet.want(D, V1, replicas)
        return self.follow()

    def follow(self) -> list[Action]:
        """One step, in which each pilot gets its shape."""
        did = list(self.fleet.step(self.now))
        for action in did:
            if isinstance(action, SubmitPilot):
                nodes = NODES if action.full else fitted(BOUNDS, action.lacking).nodes
                self.fleet.shaped(action.pilot, Shape(nodes, 1e9))
            self.do(action)
        self.most = max(self.most, len(self.fleet.pilots))
        return did

    def settle(self) -> list[Action]:
        """All pilots start."""
        did: list[Action] = []
        self.report()
        while step := self.follow():
            did += step
            self.report()
        return did

    @property
    def slots(self) -> list[int]:
        return sorted(each.slots for each in self.fleet.pilots.values())

    @property
    def held(self) -> int:
        return sum(self.spread().values())


def submits(did: list[Action]) -> list[bool]:
    """Of each pilot that was submitted, whether it is to be full."""
    return [each.full for each in did if isinstance(each, SubmitPilot)]


@pytest.mark.parametrize("max_pilots", [1, 2, 3])
def test_a_demand_that_grows_gets_all_that_the_site_has_room_for(max_pilots: int) -> None:
    site = Gaps(max_pilots)
    for replicas in range(1, max_pilots * NODES * SLOTS + 1):
        site.wish(replicas)
        site.settle()
        assert site.held == replicas
        assert len(site.fleet.pilots) <= max_pilots, "the small one has ended"
    assert site.slots == [NODES * SLOTS] * max_pilots
    assert site.most <= 2 * max_pilots


def test_a_small_pilot_serves_until_the_full_one_is_there() -> None:
    site = Gaps(1)
    assert submits(site.wish(2)) == [False]
    site.settle()
    (small,) = site.fleet.pilots
    assert submits(site.wish(5)) == [True]
    (full,) = set(site.fleet.pilots) - {small}
    for _ in range(3):
        site.pass_time(1000.0)
        assert site.follow() == [], "the full one waits in the queue"
    assert site.spread() == {small: 2, full: 0}
    site.settle()
    assert site.spread() == {full: 5}


def test_a_small_pilot_that_waits_in_the_queue_keeps_its_turn() -> None:
    site = Gaps(1)
    site.wish(1)
    (small,) = site.fleet.pilots
    assert submits(site.wish(5)) == [True]
    assert site.follow() == []
    assert small in site.fleet.pilots


def test_a_full_pilot_that_is_not_needed_after_all_is_cancelled() -> None:
    site = Gaps(1)
    site.wish(2)
    site.settle()
    (small,) = site.fleet.pilots
    site.wish(3)
    did = site.wish(2)
    assert len(did) == 1
    assert isinstance(did[0], CancelPilot)
    assert did[0].pilot != small
    assert site.follow() == []


def test_places_are_filled_before_any_is_given_up() -> None:
    site = Gaps(3)
    site.wish(1)
    site.settle()
    assert submits(site.wish(8)) == [False]
    assert submits(site.wish(24)) == [False, True], "a free place, and that of a small one"


def test_what_ends_soon_makes_no_pilot_too_small() -> None:
    """Replicas that nobody wants any more hold the slots: there is room enough as soon as they have ended."""
    site = Gaps(1)
    site.wish(2)
    site.settle()
    site.fleet.unwant(D)
    site.fleet.want(OTHER, Version("w"), 2)
    for _ in range(3):
        assert submits(site.follow()) == []


def test_the_queue_takes_no_more_than_it_says() -> None:
    site = Gaps(3, max_queued=1)
    site.wish(1)
    site.settle()
    assert submits(site.wish(24)) == [False]
    assert submits(site.follow()) == []


def test_where_a_full_one_could_not_run_beside_it_no_pilot_is_small() -> None:
    site = Gaps(2, max_running=2)
    assert submits(site.wish(1)) == [True]
    site.settle()
    site.wish(16)
    site.settle()
    assert site.slots == [8, 8]
    assert site.most == 2


def test_one_after_the_other_where_only_one_more_may_run() -> None:
    site = Gaps(2, max_running=3)
    site.wish(2)
    site.settle()
    site.wish(4)
    site.settle()
    assert site.slots == [2, 2]
    assert submits(site.wish(16)) == [True]
    site.settle()
    assert site.slots == [8, 8]
    assert site.held == 16
    assert site.most == 3


def test_nobody_knows_of_a_small_one_whether_it_lives() -> None:
    site = Gaps(1)
    site.wish(1)
    site.settle()
    (small,) = site.fleet.pilots
    site.fleet.job_seen(small, "unknown")
    site.wish(5)
    assert list(site.fleet.pilots) == [small], "nothing is submitted meanwhile"


def test_the_scaled_deployment_of_a_growing_day() -> None:
    site = Gaps(1)
    site.fleet.want(D, V1, 0, replace(SCALE, most=8))
    for came in (1, 240, 480):
        site.demand(came=came, queued=came, service_s=1.0)
        site.follow()
        site.settle()
    assert site.held == 8
    assert pilots_of(site) == {NODES * SLOTS}


def pilots_of(site: Gaps) -> set[int]:
    found: dict[PilotId, int] = {name: each.slots for name, each in site.fleet.pilots.items()}
    return set(found.values())
