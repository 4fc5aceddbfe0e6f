"""What happens to pilots, and what becomes of their replicas: each loss has one cause, and only some count."""

from __future__ import annotations

from typing import get_args

import pytest

from hpcserve.core.fleetbook import ForgetReplica, ReplicaSaid
from hpcserve.core.fleetview import CancelPilot
from hpcserve.core.pilotlife import CANCEL_PAUSE_S, GIVEN_UP_S
from hpcserve.types import DeploymentName, LossKind, PilotId, ReplicaId
from tests.unit.core.pilot_stage import D, Play, V


@pytest.mark.parametrize("kind", ["walltime", "preempted", "node failed", "cancelled", "out of memory", "crashed"])
def test_the_replicas_of_a_pilot_that_ends_have_its_cause_and_are_replaced_at_once(kind: LossKind) -> None:
    play = Play()
    pilot = play.serve()
    play.end(pilot, kind)
    (loss,) = play.losses
    assert (loss.kind, loss.cause, loss.pilot, loss.told) == (kind, "how", pilot, False)
    assert len(play.submitted) == 2
    assert play.failures == []
    assert play.fleet.deployments[D].restarts_count == 1
    assert kind in play.fleet.deployments[D].reason


def test_a_pilot_that_ran_out_of_memory_leaves_what_its_replicas_ran_suspect() -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    play.note(play.fleet.job_ended(pilot, "how", "", play.now, kind="out of memory"))
    fallen = play.fleet.replicas[replica]
    assert (fallen.ended, fallen.crashed, fallen.cause) == (True, True, "out of memory: how")
    play.step()
    assert replica in play.fleet.replicas, "the broker is told how it ended"
    play.step()
    assert replica not in play.fleet.replicas
    assert play.done.count(ForgetReplica(replica)) == 1


def test_a_setup_that_takes_the_memory_of_others_counts_against_its_own_deployment_alone() -> None:
    play = Play()
    pilot = play.serve()
    other = DeploymentName("other")
    play.fleet.want(other, V, 1)
    play.step()
    assert {each.deployment for each in play.fleet.replicas.values()} == {D, other}
    play.end(pilot, "out of memory")
    assert play.fleet.deployments[other].not_before_s > 0.0
    assert play.fleet.deployments[D].not_before_s == 0.0
    assert [each.deployment for each in play.fleet.replicas.values() if each.crashed] == [other]


def test_while_the_scheduler_is_silent_an_agents_report_lets_nothing_be_submitted() -> None:
    play = Play()
    pilot = play.serve()
    play.fleet.job_seen(pilot, "unknown", "squeue did not answer")
    play.fleet.want(D, V, 9)
    play.report(pilot)
    assert play.submitted == [pilot]
    play.fleet.job_seen(pilot, "running")
    play.step()
    assert len(play.submitted) == 4


def test_a_pilot_that_was_asked_to_end_loses_nothing() -> None:
    play = Play()
    pilot = play.serve()
    play.fleet.unwant(D)
    play.step()
    (replica,) = play.said[pilot]
    play.fleet.idle(replica)
    play.step()
    play.said[pilot].clear()
    play.report(pilot)
    play.step(61.0)
    assert CancelPilot(pilot) in play.done
    play.report(pilot, leaving=True)
    play.end(pilot, "cancelled")
    assert play.losses == []


@pytest.mark.parametrize(
    ("told", "seen", "found"),
    [
        ("cancelled", "preempted", "preempted"),
        ("cancelled", "cancelled", "cancelled"),
        ("walltime", "crashed", "walltime"),
    ],
)
@pytest.mark.parametrize("drained", [False, True])
def test_why_an_agent_had_to_leave_the_scheduler_knows_best(
    *, told: LossKind, seen: LossKind, found: LossKind, drained: bool
) -> None:
    play = Play()
    pilot = play.serve()
    play.report(pilot, leaving=True)
    (replica,) = play.said[pilot]
    play.said[pilot][replica] = ReplicaSaid(replica, "exited", "SIGTERM", kind=told, host="n1", drained=drained)
    play.report(pilot, leaving=True)
    assert play.losses == [], "it will be known when the job has ended"
    assert not any(each.crashed for each in play.fleet.replicas.values())
    play.end(pilot, seen)
    assert [(loss.replica, loss.kind, loss.drained) for loss in play.losses] == [(replica, found, drained)]


def test_a_requeued_pilot_begins_anew() -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    actions = play.note(play.fleet.requeued(pilot, "it was preempted", play.now, kind="preempted"))
    assert ForgetReplica(replica) in actions
    assert [loss.kind for loss in play.losses] == ["preempted"]
    known = play.fleet.pilots[pilot]
    assert (known.phase, known.reported, known.ends_s) == ("queued", False, None)
    play.said[pilot] = {}
    play.step()
    assert len(play.submitted) == 1, "the pilot that waits again is room enough"
    play.report(pilot)
    assert len(play.said[pilot]) == 1


@pytest.mark.parametrize("ends", ["asked to", "by itself"])
def test_a_requeued_pilot_ends_only_if_it_was_asked_to(ends: str) -> None:
    play = Play()
    pilot = play.serve()
    if ends == "asked to":
        play.fleet.unwant(D)
        play.fleet.idle(*play.said[pilot])
        play.become(pilot, "exited")
        play.step(60.0)
        assert play.fleet.pilots[pilot].asked
    play.report(pilot, leaving=True)
    play.note(play.fleet.requeued(pilot, "it was preempted", play.now, kind="preempted"))
    play.said[pilot] = {}
    play.report(pilot)
    assert play.fleet.orders(pilot).stop is (ends == "asked to")


def test_a_report_that_was_heard_late_moves_no_end_and_one_that_tells_less_does() -> None:
    play = Play()
    pilot = play.serve()
    known, ends_s = play.fleet.pilots[pilot], play.ends_s[pilot]
    for told_s, found_s in [(ends_s + 30.0, ends_s), (ends_s - 0.5, ends_s - 0.5), (ends_s, ends_s - 0.5)]:
        play.ends_s[pilot] = told_s
        play.report(pilot)
        assert known.ends_s == found_s
    play.note(play.fleet.requeued(pilot, "it was preempted", play.now, kind="preempted"))
    play.said[pilot] = {}
    play.ends_s[pilot] = ends_s + 500.0
    play.report(pilot)
    assert play.fleet.pilots[pilot].ends_s == ends_s + 500.0, "another incarnation has its own"


def test_a_second_wait_in_the_queue_is_not_taken_for_the_first() -> None:
    play = Play()
    pilot = play.serve()
    lead_s = play.fleet.succession.lead_s(0.0)
    play.fleet.requeued(pilot, "", play.now, kind="preempted")
    play.said[pilot] = {}
    play.step(500.0)
    play.report(pilot)
    assert play.fleet.succession.lead_s(0.0) == lead_s


def test_a_pilot_that_is_cancelled_twice_is_not_submitted_at_once() -> None:
    play = Play()
    play.end(play.serve(), "cancelled")
    assert len(play.submitted) == 2, "the first time it is replaced at once"
    (second,) = play.said
    play.report(second)
    play.end(second, "cancelled")
    assert len(play.submitted) == 2
    assert "cancelled from outside" in play.fleet.deployments[D].reason
    play.step(CANCEL_PAUSE_S)
    assert len(play.submitted) == 3
    play.report(play.submitted[-1])
    assert not play.fleet.deployments[D].reason


def lose_three(play: Play, kind: LossKind, cause: str) -> PilotId:
    """Three pilots end one after the other, each while a replica in it is being set up; returns the last one."""
    play.fleet.want(D, V, 1)
    play.step()
    for n in range(3):
        assert play.failures == [], n
        (pilot,) = play.said
        play.report(pilot)
        assert play.said[pilot], "a replica is being set up"
        play.end(pilot, kind, cause)
        play.step(60.0)
    return pilot


def test_pilots_that_run_out_of_memory_before_a_replica_is_ready_are_given_up() -> None:
    play = Play()
    lose_three(play, "out of memory", "slurmstepd killed it")
    (failure,) = play.failures
    assert "run out of memory" in failure.reason
    assert "slurmstepd killed it" in failure.reason
    assert failure.traceback == "last words"


@pytest.mark.parametrize("kind", ["preempted", "node failed", "cancelled"])
def test_pilots_that_lose_their_node_before_their_agents_report_do_not_count(kind: LossKind) -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    for _ in range(5):
        (pilot,) = play.said
        play.end(pilot, kind)
        play.step(CANCEL_PAUSE_S)
    assert play.failures == []


def test_pilots_that_end_at_once_are_given_up_after_three_however_long_each_waited() -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    for _ in range(3):
        assert play.failures == []
        play.step(7200.0)
        (pilot,) = play.said
        play.end(pilot, "crashed", "exit code 78")
        play.step(60.0)
    assert [each.deployment for each in play.failures] == [D]
    assert len(play.submitted) == 3


def test_pilots_that_end_before_a_replica_in_them_is_ready_are_blamed_themselves() -> None:
    play = Play()
    pilot = lose_three(play, "crashed", "killed by signal 11 (SIGSEGV)")
    (failure,) = play.failures
    assert failure.reason == (
        f"pilot jobs end before a replica in them is ready, the last one, {pilot}, so: killed by signal 11 (SIGSEGV); "
        f"see: hpcserve logs {pilot}"
    )
    assert play.fleet.deployments[D].pilots_ended


@pytest.mark.parametrize("kind", ["crashed", "version mismatch"])
def test_pilots_of_an_earlier_controller_are_not_blamed(kind: LossKind) -> None:
    play = Play()
    play.fleet.want(D, V, 3)
    pilots = [PilotId(f"p{n}") for n in range(3)]
    for pilot in pilots:
        play.fleet.adopt_pilot(pilot, 2, play.now)
        play.fleet.reported(pilot, (), ends_s=play.now + 100.0, leaving=False, now=play.now)
    for pilot in pilots:
        play.note(play.fleet.job_ended(pilot, "how", "", play.now, kind=kind))
    assert play.failures == []


def test_a_setup_that_fails_again_and_again_is_the_fault_of_its_deployment_not_of_its_pilot() -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    (pilot,) = play.said
    play.report(pilot)
    for _ in range(10):
        play.become(pilot, "failed", "crashed")
        play.step(1.0)
    assert len(play.failures) == 1
    assert not play.fleet.deployments[D].pilots_ended
    assert "before" not in play.failures[0].reason
    assert play.submitted == [pilot]


def test_a_pilot_that_leaves_since_it_is_cancelled_from_outside_counts_as_cancelled() -> None:
    play = Play()
    for _ in range(2):
        pilot = play.submitted[-1] if play.submitted else play.serve()
        play.report(pilot, leaving=True)
        play.end(pilot, "cancelled")
    assert "cancelled from outside" in play.fleet.deployments[D].reason


def refuse(play: Play, pause_s: float | None = None) -> float:
    """The next submission is refused; returns how long no other follows."""
    (pilot,) = (each for each in play.said if play.fleet.pilots[each].phase == "queued")
    play.note(play.fleet.not_submitted(pilot, "QOS tiny is full", play.now, lasting=False, pause_s=pause_s))
    del play.said[pilot]
    assert "QOS tiny is full" in play.fleet.deployments[D].reason
    began_s, so_far = play.now, len(play.submitted)
    while len(play.submitted) == so_far:
        play.step(1.0)
    return play.now - began_s


def test_a_scheduler_without_room_is_asked_later_and_later_and_nothing_is_given_up() -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    assert [refuse(play) for _ in range(7)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    assert play.failures == []


def test_of_several_refused_at_once_the_first_makes_the_pause_longer() -> None:
    play = Play()
    play.fleet.want(D, V, 8)
    play.step()
    assert len(play.submitted) == 4
    for pilot in list(play.said):
        play.fleet.not_submitted(pilot, "QOS tiny is full", play.now, lasting=False)
        del play.said[pilot]
    play.step(4.9)
    assert len(play.submitted) == 4
    play.step(0.1)
    assert len(play.submitted) == 8


def test_once_a_pilot_was_taken_the_next_refusal_is_the_first_again() -> None:
    play = Play()
    before = play.serve()
    play.fleet.want(D, V, 3)
    play.step()
    assert [refuse(play), refuse(play)] == [5.0, 10.0]
    play.fleet.job_seen(before, "running")
    assert refuse(play) == 20.0, "that an older pilot runs says nothing of room"
    taken = play.submitted[-1]
    play.fleet.job_seen(taken, "unknown")
    assert play.fleet.pilots[taken].phase == "unknown"
    play.fleet.job_seen(taken, "queued")
    play.note(play.fleet.job_ended(taken, "how", "", play.now, kind="preempted"))
    del play.said[taken]
    play.step(2.0)
    assert refuse(play) == 5.0


def test_that_no_pilot_can_be_submitted_is_said_until_one_was() -> None:
    play = Play()
    before = play.serve()
    play.fleet.want(D, V, 3)
    play.step()
    refuse(play)
    play.fleet.job_seen(before, "running")
    taken = play.submitted[-1]
    play.fleet.job_seen(taken, "unknown")
    assert "QOS tiny is full" in play.fleet.deployments[D].reason, "nobody knows yet of one that was taken since"
    play.fleet.job_seen(taken, "queued")
    assert play.fleet.deployments[D].reason == ""


@pytest.mark.parametrize(("told_s", "waits_s"), [(2.0, 5.0), (30.0, 30.0), (0.0, 1.0)])
def test_a_pause_that_the_error_tells_is_kept_where_it_is_longer(told_s: float, waits_s: float) -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    assert refuse(play, told_s) == waits_s


def test_what_a_user_wants_anew_is_tried_at_once_and_then_after_the_first_pause() -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    for _ in range(5):
        refuse(play)
    (pilot,) = play.said
    play.fleet.not_submitted(pilot, "QOS tiny is full", play.now, lasting=False)
    del play.said[pilot]
    play.fleet.want(D, V, 1)
    play.step(0.0)
    assert len(play.said) == 1
    assert refuse(play) == 5.0


ENDS = [each for each in get_args(LossKind) if each]
BY_THEMSELVES = ("crashed", "out of memory", "version mismatch")
PATIENCE_S, MOST_TRIES = 600, 20


@pytest.mark.parametrize("serving", [False, True])
@pytest.mark.parametrize(
    ("end", "said"),
    [
        *((end, said) for end in ENDS for said in ("nothing", "it is there", "it leaves")),
        ("refused", "nothing"),
        ("no room", "nothing"),
    ],
)
def test_however_pilots_fail_there_is_no_storm_of_them(end: str, said: str, *, serving: bool) -> None:
    """``said``: what its agent reports before it ends."""
    play = Play()
    if serving:
        play.serve()
        play.fleet.want(D, V, 3)
    else:
        play.fleet.want(D, V, 1)
    for _ in range(PATIENCE_S):
        play.step(1.0)
        for pilot in [each for each in play.said if not play.fleet.pilots[each].proven]:
            if said != "nothing":
                play.report(pilot, leaving=said == "it leaves")
            del play.said[pilot]
            if end in ("refused", "no room"):
                play.note(play.fleet.not_submitted(pilot, end, play.now, lasting=end == "refused"))
            else:
                play.note(play.fleet.job_ended(pilot, end, "", play.now, kind=end))  # type: ignore[arg-type]
    # One that leaves is replaced while it does, and the pause begins when it has ended.
    assert len(play.submitted) <= (2 * MOST_TRIES if said == "it leaves" else MOST_TRIES + 3)
    known = play.fleet.deployments[D]
    faults = {"nothing": ("refused", "unreachable", *BY_THEMSELVES), "it is there": BY_THEMSELVES, "it leaves": ()}
    assert known.failed is (not serving and end in faults[said])
    if end in ("refused", "no room", *faults[said]):
        assert end in known.reason, "it says what keeps the others"


def test_a_whole_line_that_is_refused_for_one_fault_counts_once_and_shortens_no_pause() -> None:
    play = Play()
    play.serve()
    play.fleet.want(D, V, 8)
    refused = []
    for _ in range(int(GIVEN_UP_S)):
        play.step(1.0)
        line = [each for each in play.said if not play.fleet.pilots[each].proven]
        for number, pilot in enumerate(line):
            del play.said[pilot]
            pause_s = None if number == 0 else 0.0
            play.note(play.fleet.not_submitted(pilot, "refused", play.now, lasting=number == 0, pause_s=pause_s))
        if line:
            refused.append(len(line))
    assert refused == [3, 3, 3], "one try and two more, and then none for ten minutes"


@pytest.mark.parametrize("mended", [False, True])
def test_when_the_last_that_serves_goes_pilots_that_were_given_up_are_tried_once_more(*, mended: bool) -> None:
    play = Play()
    pilot = play.serve()
    play.fleet.want(D, V, 3)

    def refuse_for(seconds: int) -> None:
        for _ in range(seconds):
            play.step(1.0)
            for each in [each for each in play.said if each != pilot]:
                del play.said[each]
                play.note(play.fleet.job_ended(each, "refused", "", play.now, kind="crashed"))

    refuse_for(100)
    given_up, known = len(play.submitted), play.fleet.deployments[D]
    assert "refused" in known.reason
    play.end(pilot, "cancelled")
    assert not known.failed
    if mended:
        play.step(1.0)
        assert len(play.submitted) > given_up
        play.report(play.submitted[-1])
        assert not known.failed
    else:
        refuse_for(5)
        assert given_up < len(play.submitted) <= given_up + 2
        assert known.failed
        assert "refused" in known.reason


def test_wanted_anew_pilots_that_were_given_up_are_tried_three_times_again() -> None:
    play = Play()
    for times in (1, 2):
        play.fleet.want(D, V, 1)
        for _ in range(100):
            play.step(1.0)
            for pilot in list(play.said):
                del play.said[pilot]
                play.note(play.fleet.not_submitted(pilot, "refused", play.now, lasting=True))
        assert len(play.failures) == times
        assert len(play.submitted) == 3 * times


def test_a_replica_of_ours_is_known_by_its_name() -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    assert play.fleet.has_named(replica)
    assert not play.fleet.has_named(ReplicaId("d-other-1"))
    assert not play.fleet.has_named(ReplicaId("ds-1"))


def test_a_pilot_that_runs_and_is_silent_says_where_to_look() -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    (pilot,) = play.said
    known = play.fleet.pilots[pilot]
    play.fleet.job_seen(pilot, "queued", "Priority")
    assert known.waits_for == "Priority"
    play.fleet.job_seen(pilot, "running")
    assert known.waits_for == "its agent has not reported yet; if that lasts, see: hpcserve doctor --pilot"
    play.report(pilot)
    assert known.waits_for == ""
    play.fleet.job_seen(pilot, "running")
    assert known.waits_for == ""
