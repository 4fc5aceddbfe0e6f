"""A fleet whose deployments are scaled: to none and back, over restarts, with whole pilots that become empty."""

from __future__ import annotations

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import Action, ReplicaSaid
from hpcserve.core.fleetview import CancelPilot, Policy, RetireReplica, StartReplica, StopReplica, SubmitPilot
from hpcserve.core.rollout import Version
from hpcserve.core.scaling import Demand, Scale
from hpcserve.core.succession import KEPT, Succession
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from tests.unit.core.test_fleet import ThreeAreTooMany

D = DeploymentName("d")
V1, V2 = Version("v1", "f(x)"), Version("v2", "f(x)")
SCALE = Scale(least=0, most=6, hot=0, idle_s=60.0)
IDLE_S = 100.0


class Site:
    """A fleet whose pilots start at once and whose replicas do what they are told."""

    def __init__(self, scale: Scale | None = SCALE) -> None:
        self.now = 0.0
        self.succession = Succession(walltime_s=1e9, margin_s=0.0, first_wait_s=0.0)
        self.fleet = Fleet(
            policy=Policy(max_pilots=3, slots=2, idle_s=IDLE_S),
            seed="s",
            restarts=ThreeAreTooMany,
            pilot_restarts=ThreeAreTooMany(),
            succession=self.succession,
        )
        self.fleet.want(D, V1, 0, scale)
        self.said: dict[ReplicaId, tuple[PilotId, str]] = {}

    def demand(self, **counts: float) -> None:
        self.fleet.demand({D: Demand(**({"came": 0, "queued": 0, "running": 0, "workers": 0} | counts))}, self.now)  # type: ignore[arg-type]

    def settle(self) -> list[Action]:
        """Steps, with all that follows, until nothing does."""
        did: list[Action] = []
        while step := self.fleet.step(self.now):
            did.extend(step)
            for action in step:
                self.do(action)
            self.report()
        return did

    def do(self, action: Action) -> None:
        if isinstance(action, StartReplica):
            self.said[action.replica] = (action.pilot, "ready")
        elif isinstance(action, RetireReplica):
            self.fleet.idle(action.replica)
        elif isinstance(action, StopReplica):
            self.said[action.replica] = (self.said[action.replica][0], "exited")
        elif isinstance(action, CancelPilot):
            self.fleet.job_ended(action.pilot, "cancelled", "", self.now)

    def report(self) -> None:
        for pilot in list(self.fleet.pilots):
            said = tuple(ReplicaSaid(name, state) for name, (home, state) in self.said.items() if home == pilot)
            self.fleet.job_seen(pilot, "running")
            self.fleet.reported(pilot, said, ends_s=1e9, leaving=False, now=self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def spread(self) -> dict[PilotId, int]:
        alive = [each for each in self.fleet.replicas.values() if not each.ended]
        return {pilot: sum(each.pilot == pilot for each in alive) for pilot in self.fleet.pilots}


def others_waited(site: Site) -> None:
    """From now on a pilot is expected to wait for ten minutes."""
    for _ in range(KEPT):
        site.succession.waited(600.0)


def submitted(did: list[Action]) -> int:
    return sum(isinstance(each, SubmitPilot) for each in did)


def test_a_pilot_that_runs_is_filled_however_long_another_would_wait_in_the_queue() -> None:
    site = Site()
    site.demand(queued=1, service_s=0.2)
    site.settle()
    others_waited(site)
    assert list(site.spread().values()) == [1]
    site.demand(queued=600, service_s=0.2)
    site.settle()
    assert list(site.spread().values()) == [2]


def test_the_room_that_another_has_is_none() -> None:
    site = Site()
    site.fleet.want(DeploymentName("other"), V1, 1)
    site.settle()
    others_waited(site)
    site.demand(queued=600, service_s=0.2)
    site.settle()
    site.demand(queued=600, service_s=0.2)
    site.settle()
    assert list(site.spread().values()) == [2], "one of each"


def test_to_none_and_back() -> None:
    site = Site()
    site.demand()
    assert site.settle() == []
    site.demand(came=1, queued=1)
    assert submitted(site.settle()) == 1
    assert list(site.spread().values()) == [1]
    site.pass_time(SCALE.idle_s)
    site.demand(came=1, workers=1)
    site.settle()
    assert list(site.spread().values()) == [0], "the pilot waits a while for more"
    site.pass_time(IDLE_S)
    site.settle()
    assert site.spread() == {}
    site.demand(came=2, queued=1)
    assert submitted(site.settle()) == 1


def test_pilots_are_submitted_for_what_the_demand_needs_and_no_more() -> None:
    site = Site()
    site.demand(came=600, queued=240, service_s=1.0)
    assert submitted(site.settle()) == 2
    assert sorted(site.spread().values()) == [2, 2]
    site.demand(came=6000, queued=6000, service_s=1.0)
    assert submitted(site.settle()) == 1, "six is the maximum"
    assert sorted(site.spread().values()) == [2, 2, 2]


def test_whole_pilots_become_empty_when_less_is_needed() -> None:
    site = Site()
    site.demand(came=0)
    site.demand(came=360, queued=360, service_s=1.0)
    site.settle()
    site.pass_time(SCALE.idle_s + 1)
    site.demand(came=361, queued=0, running=2, workers=6, service_s=50.0)
    site.settle()
    assert sorted(site.spread().values()) == [0, 0, 2]


def test_a_new_controller_lets_nothing_go_before_it_knows_the_demand() -> None:
    site = Site()
    pilot, replica = PilotId("old"), ReplicaId("r-old")
    site.fleet.adopt_pilot(pilot, 2, site.now)
    site.fleet.adopt_replica(replica, D, V1, pilot)
    site.said[replica] = (pilot, "ready")
    site.fleet.job_seen(pilot, "running")
    site.fleet.reported(pilot, (ReplicaSaid(replica, "ready"),), ends_s=1e9, leaving=False, now=site.now)
    assert site.settle() == []
    site.demand(came=100, workers=1)
    assert site.settle() == []
    assert site.spread() == {pilot: 1}
    site.pass_time(SCALE.idle_s)
    site.demand(came=100, workers=1)
    site.settle()
    assert site.spread() == {pilot: 0}


def test_another_version_keeps_what_is_known_of_the_demand() -> None:
    site = Site()
    site.demand(came=180, queued=180, service_s=1.0)
    site.settle()
    site.fleet.want(D, V2, 0, SCALE)
    site.settle()
    assert sum(each.version == V2 and not each.ended for each in site.fleet.replicas.values()) == 3


def test_other_limits_hold_from_the_next_step_on() -> None:
    site = Site()
    site.demand(came=360, queued=360, service_s=1.0)
    site.settle()
    site.fleet.want(D, V1, 0, Scale(least=0, most=2, hot=0, idle_s=60.0))
    site.settle()
    assert sum(site.spread().values()) == 2
    site.fleet.want(D, V1, 1)
    site.settle()
    assert sum(site.spread().values()) == 1
    assert site.fleet.deployments[D].scaler is None


def test_what_the_scheduler_says_of_the_queue_counts_for_more_than_what_was_waited_before() -> None:
    site = Site()
    site.demand(came=1, queued=1, service_s=1.0)
    (submit,) = [each for each in site.fleet.step(site.now) if isinstance(each, SubmitPilot)]
    site.fleet.job_seen(submit.pilot, "queued", "Resources", starts_s=site.now + 600.0)
    site.demand(came=1800, queued=1800, service_s=1.0)
    assert site.fleet.deployments[D].replicas == 3, "in the ten minutes until it starts that is three replicas' work"
    site.pass_time(SCALE.idle_s + 1)
    site.fleet.job_seen(submit.pilot, "queued", "Resources", starts_s=1e12)
    site.demand(came=1800, queued=300, service_s=1.0)
    assert site.fleet.deployments[D].replicas >= 5, "nobody believes that, and nobody has waited yet"


def test_a_guess_becomes_older_and_is_none_once_its_time_has_come() -> None:
    def needed(after_s: float) -> int:
        site = Site()
        site.demand(came=1, queued=1, service_s=1.0)
        (submit,) = [each for each in site.fleet.step(site.now) if isinstance(each, SubmitPilot)]
        site.fleet.job_seen(submit.pilot, "queued", "Resources", starts_s=site.now + 360.0)
        site.pass_time(after_s)
        site.demand(came=1, queued=360, service_s=1.0)
        return site.fleet.deployments[D].replicas

    site = Site()
    site.demand(came=360, queued=360, service_s=1.0)
    assert needed(0.0) == 1
    assert needed(240.0) == 3, "two minutes are left"
    assert needed(361.0) == site.fleet.deployments[D].replicas == 6, "nobody can tell"


def test_a_hundred_deployments_of_one_replica_each_share_the_pilots() -> None:
    site = Site()
    site.fleet.unwant(D)
    names = [DeploymentName(f"d{number}") for number in range(100)]
    asked = Demand(came=1, queued=1, running=0, workers=0)
    for name in names:
        site.fleet.want(name, V1, 0, Scale(least=0, most=1, hot=0, idle_s=10.0))
    answered: set[DeploymentName] = set()
    for _ in range(100):
        waiting = [name for name in names if name not in answered]
        if not waiting:
            break
        site.fleet.demand(dict.fromkeys(waiting, asked), site.now)
        site.settle()
        answered |= {each.deployment for each in site.fleet.replicas.values() if each.ready}
        site.pass_time(11.0)
        site.fleet.demand({name: Demand(came=1, queued=0, running=0, workers=1) for name in answered}, site.now)
        site.settle()
        assert len(site.fleet.pilots) <= 3
    assert len(answered) == 100
