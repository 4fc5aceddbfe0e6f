"""A deployment that sleeps while pilots are given up: it is spared, and whoever asks for it has one more tried."""

from __future__ import annotations

import pytest

from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.core.fleetview import StartReplica
from hpcserve.core.pilotlife import GIVEN_UP_S
from hpcserve.core.rollout import Version
from hpcserve.core.scaling import Demand, Scale
from hpcserve.core.width import Ranks
from hpcserve.types import DeploymentName
from tests.unit.core.pilot_stage import D, Play, V

SLEEPY, DROWSY = DeploymentName("sleepy"), DeploymentName("drowsy")
WIDE, TWO_RANKS = DeploymentName("wide"), Version("w1", "f(x)", Ranks(2))
IDLE_S = 60.0


class Night(Play):
    """Pilots that are refused, until the site is mended."""

    def __init__(self, *, nodes: int = 1) -> None:
        super().__init__(nodes=nodes)
        self.came = 0
        self.queued = {SLEEPY: 0, DROWSY: 0}
        self.is_mended = False

    def want_on_demand(self, name: DeploymentName, least: int = 0, idle_s: float = IDLE_S) -> None:
        self.fleet.want(name, V, least, Scale(least=least, most=2, hot=0, idle_s=idle_s))

    def ask(self, name: DeploymentName = SLEEPY) -> None:
        self.came += 1
        self.queued[name] += 1

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            for name in self.queued:
                if self.failed(name):  # the broker lets nobody wait for it
                    self.queued[name] = 0
                counted = Demand(came=self.came, queued=self.queued[name], running=0, workers=0)
                self.fleet.demand({name: counted}, self.now)
            self.step(1.0)
            for pilot in list(self.said) if not self.is_mended else []:
                del self.said[pilot]
                self.note(self.fleet.not_submitted(pilot, "refused", self.now, lasting=True))

    def failed(self, name: DeploymentName) -> bool:
        return name in self.fleet.deployments and self.fleet.deployments[name].failed

    def give_up(self) -> None:
        """Another deployment's pilots are."""
        self.fleet.want(D, V, 1)
        self.pass_time(100)
        assert [each.deployment for each in self.failures] == [D]
        self.fleet.unwant(D)  # or it is tried again
        self.done.clear()


def test_what_is_idle_does_not_fail_with_others() -> None:
    night = Night()
    night.want_on_demand(SLEEPY)
    night.give_up()
    assert not night.failed(SLEEPY)
    assert night.fleet.deployments[SLEEPY].reason == ""


def test_who_is_to_have_replicas_always_is_not_spared() -> None:
    night = Night()
    night.want_on_demand(SLEEPY, least=1)
    night.fleet.want(D, V, 1)
    night.pass_time(100)
    assert {each.deployment for each in night.failures} == {D, SLEEPY}
    assert night.fleet.deployments[SLEEPY].reason == night.fleet.deployments[D].reason != ""


def test_who_is_to_have_replicas_always_is_tried_again_each_ten_minutes_and_served_once_the_site_is_mended() -> None:
    night = Night()
    night.want_on_demand(SLEEPY, least=1)
    night.pass_time(GIVEN_UP_S - 5)
    assert night.failed(SLEEPY)
    assert len(night.submitted) == 3
    night.pass_time(2 * GIVEN_UP_S)
    assert night.failed(SLEEPY)
    assert len(night.submitted) == 5
    night.is_mended = True
    night.pass_time(GIVEN_UP_S)
    (pilot,) = night.said
    assert not night.failed(SLEEPY)
    night.report(pilot)
    night.become(pilot, "ready")
    assert night.fleet.deployments[SLEEPY].reason == ""


def test_who_wakes_it_has_a_pilot_tried_at_once_and_once_and_then_hears_why() -> None:
    night = Night()
    night.want_on_demand(SLEEPY)
    night.give_up()
    night.ask()
    night.pass_time(1)
    assert len(night.submitted) == 1
    (failure,) = night.failures
    assert failure.deployment == SLEEPY
    assert "refused" in failure.reason
    assert night.fleet.deployments[SLEEPY].pilots_ended
    night.pass_time(GIVEN_UP_S - 5)
    assert len(night.submitted) == 1


def test_later_it_sleeps_again_and_tries_nothing_before_somebody_asks() -> None:
    night = Night()
    night.want_on_demand(SLEEPY, idle_s=10 * GIVEN_UP_S)
    night.give_up()
    night.ask()
    night.pass_time(GIVEN_UP_S + 5)
    assert not night.failed(SLEEPY)
    assert night.fleet.deployments[SLEEPY].reason == ""
    night.pass_time(GIVEN_UP_S)
    assert len(night.submitted) == 1
    night.ask()
    night.pass_time(1)
    assert len(night.submitted) == 2
    assert len(night.failures) == 2


def test_however_often_they_are_asked_one_pilot_is_tried_for_each_in_ten_minutes() -> None:
    night = Night()
    night.want_on_demand(SLEEPY)
    night.want_on_demand(DROWSY)
    night.give_up()
    for _ in range(int(3 * GIVEN_UP_S)):
        for name in (SLEEPY, DROWSY):
            if not night.failed(name):
                night.ask(name)
        night.pass_time(1)
    assert len(night.submitted) <= 2 * 3 + 2


@pytest.mark.parametrize("has_failed", [False, True])
def test_once_the_site_is_mended_the_next_who_asks_is_served(*, has_failed: bool) -> None:
    night = Night()
    night.want_on_demand(SLEEPY)
    night.give_up()
    if has_failed:
        night.ask()
        night.pass_time(GIVEN_UP_S + 5)
    night.is_mended = True
    night.ask()
    night.pass_time(1)
    pilot = night.submitted[-1]
    night.report(pilot)
    assert list(night.said[pilot]), "a replica is being set up"
    night.become(pilot, "ready")
    assert not night.failed(SLEEPY)


def test_who_wakes_into_room_that_is_there_has_no_pilot_tried_for_others() -> None:
    night = Night(nodes=2)
    night.is_mended = True
    night.want_on_demand(SLEEPY)
    pilot = night.serve()
    night.ask()
    night.pass_time(1)
    night.fleet.want(WIDE, TWO_RANKS, 2)
    night.pass_time(1)
    night.become(pilot, "ready")
    night.queued[SLEEPY] = 0
    for _ in range(3):
        night.step(60.0)
        for each in night.said.keys() - {pilot}:
            del night.said[each]
            night.note(night.fleet.not_submitted(each, "refused", night.now, lasting=True))
    assert night.failures == []
    assert "refused" in night.fleet.deployments[WIDE].reason
    night.pass_time(IDLE_S)
    (slept,) = (each.replica for each in night.fleet.replicas.values() if each.deployment == SLEEPY)
    night.fleet.idle(slept)
    night.step()
    night.said[pilot][slept] = ReplicaSaid(slept, "exited")
    night.report(pilot)
    del night.said[pilot][slept]
    night.done.clear()
    night.ask()
    night.pass_time(5)
    assert [each.deployment for each in night.done if isinstance(each, StartReplica)] == [SLEEPY]
    assert night.submitted == []
