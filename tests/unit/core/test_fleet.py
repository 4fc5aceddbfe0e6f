"""What a failure means: which count against a deployment, which against the pilots, which against nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import Action, FailDeployment, ReplicaSaid
from hpcserve.core.fleetview import Policy, RetireReplica, StartReplica, SubmitPilot
from hpcserve.core.pilotlife import LONGEST_REFUSED_S
from hpcserve.core.rollout import Restarts, Version
from hpcserve.core.succession import Succession
from hpcserve.types import DeploymentName, PilotId, ReplicaId

D = DeploymentName("d")
V1, V2, SAME = Version("v1", "f(x)"), Version("v2", "g(x)"), Version("v1b", "f(x)")


class ThreeAreTooMany:
    """However much time and success lie between them."""

    def __init__(self) -> None:
        self.count = self.vain = 0

    def failed(self, now: float) -> float | None:
        self.count += 1
        return now + 1 if self.count < 3 else None

    def crashed(self, now: float) -> float:
        return now + 0.5

    def in_vain(self, crashes: int, *, worked: bool) -> int | None:
        self.vain = crashes + (0 if worked else self.vain)
        return self.vain if self.vain >= 3 else None

    def succeeded(self, now: float) -> None:
        pass

    def forgive(self) -> None:
        self.count = 0


class World:
    """A fleet, its one pilot at a time, and a clock that moves on with each event."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answered: int | None = None
        self.pilot: PilotId | None = None
        self.said: dict[ReplicaId, ReplicaSaid] = {}
        self.did: list[Action] = []
        self.restarts: Callable[[], Restarts] = ThreeAreTooMany
        self.fleet = Fleet(
            policy=Policy(max_pilots=1, slots=8, idle_s=60.0),
            seed="s",
            restarts=lambda: self.restarts(),  # noqa: PLW0108 - a test may set another one
            pilot_restarts=ThreeAreTooMany(),
            succession=Succession(walltime_s=1e9, margin_s=0.0, first_wait_s=0.0),
        )

    def step(self) -> list[Action]:
        self.now += 1.0
        did = list(self.fleet.step(self.now))
        self.did += did
        for each in did:
            if isinstance(each, SubmitPilot):
                self.pilot = each.pilot
            elif isinstance(each, StartReplica):
                self.said[each.replica] = ReplicaSaid(each.replica, "starting")
        return did

    def report(self) -> None:
        assert self.pilot is not None
        self.did += self.fleet.reported(self.pilot, tuple(self.said.values()), ends_s=1e9, leaving=False, now=self.now)
        self.did += self.fleet.judge(None if self.answered is None else {D: self.answered})
        self.step()

    def become(self, state: str, version: Version, cause: str = "", *, lasting: bool = False) -> None:
        """All living replicas of a version change."""
        for each in self.alive(version):
            self.said[each] = ReplicaSaid(each, state, cause, f"traceback of {cause}", lasting=lasting)
        self.report()

    def alive(self, version: Version) -> list[ReplicaId]:
        return [each.replica for each in self.fleet.replicas.values() if each.version == version and not each.ended]

    def serve(self, version: Version, replicas: int = 1) -> None:
        self.fleet.want(D, version, replicas)
        self.step()
        if not self.alive(version):
            self.report()

    def serve_without_agent(self) -> None:
        self.fleet.want(D, V1, 1)
        self.step()

    def lose_pilot(self, cause: str = "gone") -> None:
        assert self.pilot is not None
        self.did += self.fleet.job_ended(self.pilot, cause, "its last words", self.now)
        self.pilot, self.said = None, {}
        self.step()

    def failures(self) -> list[FailDeployment]:
        return [each for each in self.did if isinstance(each, FailDeployment)]


def test_replicas_that_never_become_ready_fail_the_deployment() -> None:
    world = World()
    world.serve(V1)
    for _ in range(3):
        world.become("failed", V1, "no weights")
        world.step()
    assert world.failures() == [FailDeployment(D, "no weights", "traceback of no weights")]
    assert world.fleet.deployments[D].failed
    assert not world.fleet.deployments[D].pilots_ended
    assert world.alive(V1) == []


def test_what_would_fail_in_the_same_way_is_tried_once_more() -> None:
    world = World()
    world.serve(V1)
    world.become("failed", V1, "no GPU", lasting=True)
    world.step()
    assert len(world.alive(V1)) == 1
    world.become("failed", V1, "no GPU", lasting=True)
    assert world.failures() == [FailDeployment(D, "no GPU", "traceback of no GPU")]
    world.serve(V1)  # it is wanted anew
    world.become("failed", V1, "no GPU", lasting=True)
    world.step()
    assert len(world.alive(V1)) == 1


@pytest.mark.parametrize("between", ["failed", "ready"])
def test_what_would_fail_in_the_same_way_counts_in_a_row_only(between: str) -> None:
    world = World()
    world.serve(V1)
    world.become("failed", V1, "no GPU", lasting=True)
    world.step()
    world.become(between, V1, "odd")
    world.step()
    if between == "ready":
        world.become("exited", V1, "exit code 7")
        world.step()
    assert len(world.alive(V1)) == 1
    known = world.fleet.deployments[D]
    assert known.lasting == 0
    if between == "ready":
        world.become("failed", V1, "no GPU", lasting=True)
        assert world.failures() == []


def test_one_node_that_is_not_fit_ends_nothing_while_others_serve() -> None:
    world = World()
    world.serve(V1, replicas=2)
    good, bad = world.alive(V1)
    world.said[good] = ReplicaSaid(good, "ready")
    world.report()
    for _ in range(2):
        (bad,) = set(world.alive(V1)) - {good}
        world.said[bad] = ReplicaSaid(bad, "failed", "no GPU", lasting=True)
        world.report()
        world.step()
    assert world.failures() == []
    assert len(world.alive(V1)) == 2


def crash(world: World, answered: int | None, version: Version = V1) -> None:
    """A replica was ready, and ends; by now so many requests have been answered."""
    world.become("ready", version)
    world.answered = answered
    world.become("exited", version, "exit code 7")
    world.step()


def test_replicas_that_end_after_they_were_ready_fail_nothing_while_others_answer() -> None:
    world = World()
    world.serve(V1)
    for count in (1, 1, 2, 2, 3, 1, 1, 7):  # before the last three there was a new broker
        crash(world, answered=count)
    assert world.failures() == []
    assert world.fleet.deployments[D].restarts_count == 8
    assert len(world.alive(V1)) == 1


@pytest.mark.parametrize("answered", [[0, 0, 0], [5, 5, 5], [4, 5, 5, 5]])
def test_replicas_that_end_again_and_again_with_nothing_answered_fail_the_deployment(answered: list[int]) -> None:
    world = World()
    world.serve(V1)
    for count in answered:
        assert world.failures() == []
        crash(world, answered=count)
    reason = "3 replicas in a row ended without a request answered, the last one so: exit code 7"
    assert world.failures() == [FailDeployment(D, reason, "traceback of exit code 7")]
    assert world.fleet.deployments[D].crashes
    assert world.alive(V1) == []
    world.serve(V1)
    assert not world.fleet.deployments[D].failed
    assert len(world.alive(V1)) == 1


class Proven(ThreeAreTooMany):
    """What has worked once is never given up."""

    def __init__(self) -> None:
        super().__init__()
        self.proven = False

    def in_vain(self, crashes: int, *, worked: bool) -> int | None:
        self.proven = self.proven or worked
        return None if self.proven else super().in_vain(crashes, worked=False)


def test_what_is_answered_before_the_first_look_is_the_work_of_a_first_version() -> None:
    world = World()
    world.restarts = Proven
    world.serve(V1)
    for _ in range(5):  # each look sees the one request that was answered before the first of them
        crash(world, answered=1)
    assert world.failures() == []


@pytest.mark.parametrize("while_it_starts", [0, 7])
def test_a_new_version_has_not_earned_what_the_one_before_it_answered(while_it_starts: int) -> None:
    world = World()
    world.restarts = Proven
    world.answered = 0
    world.serve(V1)
    crash(world, answered=1000)
    world.become("ready", V1)
    world.serve(V2)
    world.answered = 1000 + while_it_starts
    for _ in range(3):
        assert world.failures() == []
        crash(world, answered=world.answered, version=V2)
    assert len(world.failures()) == 1


def test_after_a_restart_of_the_controller_old_answers_prove_nothing_and_new_ones_do() -> None:
    for answered_since, failures in ((0, 1), (1, 0)):
        world = World()
        world.restarts = Proven
        world.fleet.want(D, V1, 1)
        world.fleet.recall()
        pilot, replica = PilotId("old"), ReplicaId("r-old")
        world.fleet.adopt_pilot(pilot, 8, world.now)
        world.fleet.adopt_replica(replica, D, V1, pilot)
        world.pilot, world.said, world.answered = pilot, {replica: ReplicaSaid(replica, "ready")}, 1000
        world.report()
        for _ in range(3):
            crash(world, answered=1000 + answered_since)
        assert len(world.failures()) == failures


def test_while_nobody_can_say_what_was_answered_the_ends_of_replicas_do_not_count() -> None:
    world = World()
    world.serve(V1)
    for _ in range(20):
        crash(world, answered=None)
    assert world.failures() == []


def test_pilots_whose_agents_had_reported_count_against_nobody() -> None:
    world = World()
    world.serve(V1)
    for _ in range(10):
        world.become("ready", V1)
        world.lose_pilot("killed by signal 9 (SIGKILL)")
        world.report()
    assert world.failures() == []
    assert len(world.alive(V1)) == 1


def test_pilots_that_end_before_their_agents_report_are_blamed_themselves() -> None:
    world = World()
    world.serve_without_agent()
    for _ in range(3):
        world.lose_pilot("exit code 3")
        world.step()
    (failure,) = world.failures()
    last = PilotId("pilot-s3")
    assert failure.reason == (
        f"pilot jobs end before their agents report, the last one, {last}, so: exit code 3; see: hpcserve logs {last}"
    )
    assert failure.traceback == "its last words"
    assert world.fleet.deployments[D].pilots_ended


def test_pilots_that_are_not_taken_are_no_pilots_that_ended() -> None:
    world = World()
    world.serve_without_agent()
    for _ in range(3):
        assert world.pilot is not None
        world.did += world.fleet.not_submitted(world.pilot, "no such account", world.now, lasting=True)
        world.step()
        world.step()
    (failure,) = world.failures()
    assert failure.reason == "no pilot job can be submitted: no such account"
    assert world.fleet.pilots == {}


def test_what_is_paused_does_not_fail_with_others_when_pilots_are_given_up() -> None:
    world = World()
    paused = DeploymentName("paused")
    world.fleet.want(paused, V1, 0)
    world.serve_without_agent()
    while not world.failures():
        assert world.pilot is not None
        world.did += world.fleet.not_submitted(world.pilot, "no such account", world.now, lasting=True)
        world.step()
        world.step()
    assert [failure.deployment for failure in world.failures()] == [D]
    assert not world.fleet.deployments[paused].failed
    assert world.fleet.deployments[paused].reason == ""


def test_a_full_disk_is_waited_for() -> None:
    world = World()
    world.serve_without_agent()
    for _ in range(20):
        assert world.pilot is not None
        assert world.fleet.not_submitted(world.pilot, "no room", world.now, lasting=False) == ()
        assert world.step() == [], "not at once"
        world.now += LONGEST_REFUSED_S
        world.step()
    assert world.failures() == []
    assert world.fleet.deployments[D].reason == "no pilot job can be submitted: no room"
    world.report()
    assert len(world.alive(V1)) == 1
    assert world.fleet.deployments[D].reason == ""


def test_a_deployment_with_some_of_its_replicas_says_what_keeps_the_others_from_a_pilot() -> None:
    world = World()
    world.fleet.policy = Policy(max_pilots=2, slots=1, idle_s=60.0)
    world.fleet.want(D, V1, 2)
    world.step()
    first, second = world.fleet.pilots
    world.fleet.not_submitted(second, "no room", world.now, lasting=False)
    world.pilot = first
    world.report()
    assert world.fleet.deployments[D].reason == "", "another one is on its way"
    world.fleet.not_submitted(PilotId(world.pilot), "no room", world.now, lasting=False)
    assert world.fleet.deployments[D].reason == "no pilot job can be submitted: no room"
    world.fleet.want(D, V1, 1)
    assert world.fleet.deployments[D].reason == ""


def test_a_version_with_other_methods_gets_no_work_before_all_of_it_goes_to_it() -> None:
    world = World()
    world.serve(V1, 2)
    world.become("ready", V1)
    old = set(world.alive(V1))
    world.serve(V2, 2)
    assert world.fleet.serving(D) == V1
    assert world.fleet.resting() == set(world.alive(V2))
    first = world.alive(V2)[0]
    world.said[first] = ReplicaSaid(first, "ready")
    world.report()
    assert world.fleet.serving(D) == V2
    assert world.fleet.resting() == old
    assert {each.replica for each in world.did if isinstance(each, RetireReplica)} == old


def test_a_version_with_the_same_methods_works_beside_the_old_one() -> None:
    world = World()
    world.serve(V1, 2)
    world.become("ready", V1)
    world.serve(SAME, 2)
    assert world.fleet.resting() == set()
    first = world.alive(SAME)[0]
    world.said[first] = ReplicaSaid(first, "ready")
    world.report()
    assert world.fleet.serving(D) == SAME
    assert len(world.fleet.resting()) == 1, "one that is ready takes the place of one, not of both"


def test_a_version_that_cannot_start_leaves_the_old_one_whose_replicas_are_replaced() -> None:
    world = World()
    world.serve(V1)
    world.become("ready", V1)
    world.serve(V2)
    for _ in range(3):
        world.become("failed", V2, "no weights")
        world.step()
    known = world.fleet.deployments[D]
    assert (known.failed, known.fallback, world.fleet.serving(D)) == (True, V1, V1)
    (lost,) = world.alive(V1)
    world.become("exited", V1, "out of memory")
    world.step()
    (new,) = world.alive(V1)
    assert new != lost
    assert known.reason == "no weights"


def test_a_fallback_that_cannot_start_either_is_given_up() -> None:
    world = World()
    world.serve(V1)
    world.become("ready", V1)
    world.serve(V2)
    for _ in range(3):
        world.become("failed", V2, "no weights")
        world.step()
    world.become("exited", V1, "out of memory")
    for _ in range(3):
        world.step()
        world.become("failed", V1, "no memory")
    assert [each.reason for each in world.failures()] == ["no weights", "no memory"]
    assert world.fleet.deployments[D].target is None
    world.step()
    assert world.alive(V1) == world.alive(V2) == []


def test_the_version_that_served_is_the_fallback_though_none_of_its_replicas_is_left() -> None:
    world = World()
    world.serve(V1)
    world.become("ready", V1)
    world.serve(V2)
    world.lose_pilot()
    world.serve(V2)
    assert world.alive(V1) == []
    for _ in range(3):
        world.become("failed", V2, "no weights")
        world.step()
    assert world.fleet.deployments[D].fallback == V1
    world.report()
    assert len(world.alive(V1)) == 1


@pytest.mark.parametrize("failure", ["", "no weights"])
def test_a_new_controller_knows_what_served_and_whether_the_wanted_version_failed(failure: str) -> None:
    world = World()
    world.fleet.want(D, V2, 1)
    world.fleet.remember(D, V1, failure)
    world.step()
    world.report()
    known = world.fleet.deployments[D]
    assert (known.served, known.reason, known.failed) == (V1, failure, bool(failure))
    assert (len(world.alive(V1)), len(world.alive(V2))) == ((1, 0) if failure else (0, 1))
    assert (D, V1.digest) in world.fleet.versions()


def test_what_served_is_no_reason_not_to_start_it() -> None:
    world = World()
    world.fleet.want(D, V1, 1)
    world.fleet.remember(D, V1, "no weights")
    assert not world.fleet.deployments[D].failed


def test_what_was_taken_back_does_not_come_again_when_another_version_fails() -> None:
    world = World()
    world.serve(V1)
    world.become("ready", V1)
    world.fleet.unwant(D)
    world.serve(V2)  # before a step has let the replica of V1 go
    for _ in range(3):
        world.become("failed", V2, "no weights")
        world.step()
    known = world.fleet.deployments[D]
    assert known.failed
    assert (known.served, known.fallback) == (None, None)
    assert not [each for each in world.did if isinstance(each, StartReplica) and each.version == V1.digest][1:]


def test_fewer_replicas_give_back_what_they_have_not_begun_unless_nobody_else_could_do_it() -> None:
    world = World()
    world.serve(V1, replicas=2)
    world.become("ready", V1)
    assert world.fleet.giving_back() == set()
    world.serve(V1, replicas=0)
    assert len(world.fleet.giving_back()) == 2
    world.fleet.unwant(D)
    assert world.fleet.giving_back() == set()
    assert len(world.fleet.resting()) == 2


@pytest.mark.parametrize(("newer", "gives_back"), [(SAME, True), (V2, False)])
def test_a_replica_that_is_replaced_gives_back_what_its_successor_can_do(newer: Version, *, gives_back: bool) -> None:
    world = World()
    world.serve(V1)
    world.become("ready", V1)
    world.serve(newer)
    world.become("ready", newer)
    (old,) = world.alive(V1)
    assert world.fleet.replicas[old].state == "retiring"
    assert world.fleet.giving_back() == ({old} if gives_back else set())


def test_a_replica_that_runs_in_vain_is_killed_and_replaced_and_counts_against_nobody() -> None:
    world = World()
    world.serve(V1)
    world.become("ready", V1)
    (first,) = world.alive(V1)
    assert world.fleet.unwanted(first)
    assert not world.fleet.unwanted(first), "it is about to end"
    assert world.fleet.resting() == {first}
    world.step()
    assert world.pilot is not None
    assert world.fleet.orders(world.pilot).kill == (first,)
    world.said[first] = ReplicaSaid(first, "exited", "killed as ordered")
    world.report()
    (second,) = world.alive(V1)
    assert second != first
    deployment = world.fleet.deployments[D]
    assert (deployment.restarts_count, deployment.reason, deployment.unjudged) == (0, "", 0)
    assert not world.fleet.replicas[first].crashed
    assert not world.fleet.unwanted(first)
    assert not world.fleet.unwanted(ReplicaId("unknown"))
