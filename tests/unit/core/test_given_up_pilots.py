"""Pilots that were given up: for whom they are tried before ten minutes are over, and for whom they are not."""

from __future__ import annotations

import pytest

from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.core.pilotlife import GIVEN_UP_S, NO_PILOT
from hpcserve.core.rollout import FleetDeployment, Version
from hpcserve.core.scaling import Scale
from hpcserve.types import DeploymentName, PilotId
from tests.unit.core.pilot_stage import D, Play, V

OTHER, BROKEN = DeploymentName("other"), Version("v2", "f(x)")
SOON_S = 10.0
"""A pilot that is tried soon is submitted within."""


def crash_new_ones(play: Play, *spared: PilotId, seconds: float = 10.0) -> None:
    """All pilots that were not spared crash as soon as they are submitted."""
    for _ in range(int(seconds)):
        for pilot in [each for each in play.said if each not in spared]:
            play.note(play.fleet.job_ended(pilot, "exit code 78", "", play.now, kind="crashed"))
            del play.said[pilot]
        play.step(1.0)


def given_up(play: Play, *, queued: int = 0) -> list[PilotId]:
    """One pilot serves and another is wanted for lack of room, and given up; returns the first, and those that wait."""
    first = play.serve(2)
    play.fleet.want(D, V, 4 + 2 * queued)
    play.step()
    waiting = [each for each in play.said if each != first][:queued]
    crash_new_ones(play, first, *waiting)
    assert list(play.said) == [first, *waiting]
    assert "exit code 78" in play.fleet.deployments[D].reason
    play.done.clear()
    return [first, *waiting]


def submitted_within(play: Play, seconds: float) -> bool:
    began_s = play.now
    while not play.submitted and play.now < began_s + seconds:
        play.step(1.0)
    return bool(play.submitted)


def test_one_pilot_that_waited_and_works_has_the_others_tried_at_once() -> None:
    play = Play()
    _, waited = given_up(play, queued=1)
    play.report(waited)
    assert not submitted_within(play, SOON_S), "that its agent reports proves nothing yet"
    play.become(waited, "ready")
    assert submitted_within(play, SOON_S)


def test_a_failure_after_one_works_is_the_first_in_a_row() -> None:
    play = Play()
    _, waited, later = given_up(play, queued=2)
    play.report(waited)
    play.become(waited, "ready")
    play.note(play.fleet.job_ended(later, "exit code 78", "", play.now, kind="crashed"))
    del play.said[later]
    play.done.clear()
    assert submitted_within(play, SOON_S)


def test_when_all_are_lost_with_their_nodes_others_follow() -> None:
    play = Play()
    first, waited = given_up(play, queued=1)
    for pilot in (first, waited):
        play.end(pilot, "node failed")
    assert submitted_within(play, SOON_S)
    assert not play.fleet.deployments[D].failed


def test_what_is_wanted_anew_is_tried_at_once_though_replicas_of_it_are_there() -> None:
    play = Play()
    given_up(play)
    play.fleet.want(D, V, 3)
    assert submitted_within(play, SOON_S)


def one_failed_beside(play: Play, *, reported: bool) -> tuple[PilotId, FleetDeployment]:
    """One pilot serves, another one waits, or is ``reported``, and a second deployment has failed with more of them."""
    first = play.serve(2)
    play.fleet.want(D, V, 4)
    play.step()
    (other,) = (each for each in play.said if each != first)
    if reported:
        play.report(other)
    play.fleet.want(OTHER, V, 3)
    play.step()
    crash_new_ones(play, first, other)
    failed = play.fleet.deployments[OTHER]
    assert (failed.failed, failed.pilots_ended) == (True, True)
    play.done.clear()
    return other, failed


def test_what_failed_with_the_pilots_is_tried_in_one_that_waited_and_comes() -> None:
    play = Play()
    waited, failed = one_failed_beside(play, reported=False)
    play.report(waited)
    assert not failed.failed
    assert OTHER in {each.deployment for each in play.fleet.replicas.values() if each.pilot == waited}
    assert not submitted_within(play, SOON_S), "that its agent reports proves nothing yet"


def test_what_failed_with_the_pilots_is_tried_as_soon_as_one_works() -> None:
    play = Play()
    there, failed = one_failed_beside(play, reported=True)
    play.become(there, "ready")
    assert not failed.failed
    assert submitted_within(play, SOON_S)


def test_once_given_up_one_is_tried_at_a_time_until_one_works() -> None:
    play = Play(max_pilots=8)
    play.fleet.want(D, V, 16)
    play.step()
    assert len(play.submitted) == 8
    crash_new_ones(play)
    play.done.clear()
    crash_new_ones(play, seconds=3 * GIVEN_UP_S + 60.0)
    assert len(play.submitted) == 3, "one in ten minutes"
    play.done.clear()
    assert submitted_within(play, GIVEN_UP_S)
    for _ in range(5):
        play.step(60.0)
    (tried,) = play.submitted
    play.report(tried)
    play.become(tried, "ready")
    assert len(play.submitted) == 8


@pytest.mark.parametrize("is_wanted_anew", [False, True])
def test_one_that_is_tried_keeps_no_other_back_once_it_leaves_or_more_is_wanted(*, is_wanted_anew: bool) -> None:
    play = Play(max_pilots=8)
    play.fleet.want(D, V, 16)
    play.step()
    crash_new_ones(play)
    play.done.clear()
    assert submitted_within(play, GIVEN_UP_S)
    (tried,) = play.submitted
    play.done.clear()
    if is_wanted_anew:
        play.fleet.want(D, V, 16)
    else:
        play.report(tried, leaving=True)
    play.step(1.0)
    assert len(play.submitted) == (7 if is_wanted_anew else 1)


def test_none_is_tried_for_what_is_idle() -> None:
    play = Play()
    play.fleet.want(OTHER, V, 0, Scale(least=0, most=2, hot=0, idle_s=60.0))
    given_up(play)
    assert not submitted_within(play, GIVEN_UP_S - 30.0)


def test_none_is_tried_for_what_has_failed_already() -> None:
    play = Play()
    first = play.serve(2)
    play.fleet.want(OTHER, V, 1)
    play.step()
    crash_new_ones(play, first)
    assert play.fleet.deployments[OTHER].failed
    (replica, _) = play.fleet.replicas
    play.fleet.unwanted(replica)
    play.done.clear()
    assert not submitted_within(play, GIVEN_UP_S - 60.0)


def test_none_is_tried_for_what_waits_to_be_set_up_again_where_there_is_room() -> None:
    play = Play()
    first = play.serve(1)
    play.fleet.want(OTHER, V, 1)
    play.step()
    play.become(first, "ready")
    play.fleet.want(D, V, 3)
    crash_new_ones(play, first)
    (replica,) = (each.replica for each in play.fleet.replicas.values() if each.deployment == OTHER)
    play.fleet.deployments[OTHER].not_before_s = play.now + 30.0
    play.done.clear()
    play.fleet.hung(replica, "killed")
    del play.said[first][replica]
    play.report(first)
    play.step(5.0)
    assert replica not in play.fleet.replicas
    assert play.submitted == []


def test_one_that_was_submitted_before_says_nothing_of_why_pilots_are_given_up() -> None:
    play = Play()
    first = play.serve(2)
    play.fleet.want(D, V, 6)
    play.step()
    waits, refused = (each for each in play.said if each != first)
    for _ in range(3):
        play.note(play.fleet.not_submitted(refused, "no such queue", play.now, lasting=True))
        del play.said[refused]
        play.step(5.0)
        refused = next((each for each in play.said if each not in (first, waits)), refused)
    assert refused not in play.said
    play.fleet.job_seen(waits, "queued")
    assert play.fleet.deployments[D].reason.startswith(NO_PILOT)
    assert "no such queue" in play.fleet.deployments[D].reason


def test_a_version_that_failed_by_itself_is_not_tried_again_with_the_pilots_but_its_fallback() -> None:
    play = Play()
    first = play.serve(1)
    play.fleet.want(D, BROKEN, 1)
    known = play.fleet.deployments[D]
    for _ in range(3):
        play.step(20.0)
        for each in play.said[first]:
            if play.fleet.replicas[each].version == BROKEN:
                play.said[first][each] = ReplicaSaid(each, "failed", "no such module", lasting=True)
        play.report(first)
        play.said[first] = {each: said for each, said in play.said[first].items() if said.state != "failed"}
    why = known.reason
    assert (known.target, "no such module" in why) == (V, True)
    crash_new_ones(play)
    assert (known.target, known.pilots_ended) == (None, True)
    assert "exit code 78" in known.reason
    play.done.clear()
    assert submitted_within(play, GIVEN_UP_S)
    assert (known.target, known.failed, known.pilots_ended, known.reason) == (V, True, False, why)
    play.report(play.submitted[-1])
    assert {each.version for each in play.fleet.replicas.values() if not each.ended} == {V}
    crash_new_ones(play)
    assert known.target is None
    play.fleet.want(D, BROKEN, 1)
    assert play.fleet.deployments[D].target == BROKEN


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 0.5), (2, 1.0)])
def test_after_each_failure_the_next_pilot_waits_longer(failures: int, pause_s: float) -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    for number in range(failures):
        (pilot,) = play.said
        del play.said[pilot]
        play.note(play.fleet.job_ended(pilot, "exit code 78", "", play.now, kind="crashed"))
        if number < failures - 1:
            play.step(60.0)
    play.done.clear()
    play.step(pause_s - 0.125)
    assert play.submitted == []
    play.step(0.125)
    assert len(play.submitted) == 1


def refused_for_other(play: Play) -> PilotId:
    """One deployment serves, and another has failed for want of a queue; returns the pilot that is submitted then."""
    first = play.serve(2)
    play.fleet.want(OTHER, V, 1)
    for _ in range(3):
        play.step(5.0)
        (refused,) = (each for each in play.said if each != first)
        play.note(play.fleet.not_submitted(refused, "no such queue", play.now, lasting=True))
        del play.said[refused]
    assert play.fleet.deployments[OTHER].failed
    play.fleet.want(D, V, 3)
    play.step()
    (taken,) = (each for each in play.said if each != first)
    return taken


def test_what_has_failed_keeps_its_reason_when_a_pilot_comes_for_another() -> None:
    play = Play()
    taken = refused_for_other(play)
    play.fleet.job_seen(taken, "queued")
    play.step()
    known = play.fleet.deployments[OTHER]
    assert (known.failed, "no such queue" in known.reason) == (True, True)


def test_what_has_failed_keeps_its_reason_when_another_waits_for_room() -> None:
    play = Play()
    taken = refused_for_other(play)
    play.note(play.fleet.not_submitted(taken, "QOS tiny is full", play.now, lasting=False))
    assert "QOS tiny is full" in play.fleet.deployments[D].reason
    assert "no such queue" in play.fleet.deployments[OTHER].reason


def lose_node(play: Play) -> float:
    """The one pilot loses its node; returns after how long the next one is submitted."""
    (pilot,) = play.said
    play.note(play.fleet.job_ended(pilot, "node1 is down", "", play.now, kind="node failed"))
    del play.said[pilot]
    began_s = play.now
    while not play.said:
        play.step(0.25)
    return play.now - began_s


def test_after_a_pilot_that_worked_one_that_loses_its_node_is_the_first_in_vain_again() -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    assert [lose_node(play), lose_node(play), lose_node(play)] == [1.0, 2.0, 4.0]
    (pilot,) = play.said
    play.report(pilot)
    play.become(pilot, "ready")
    lose_node(play)
    assert lose_node(play) == 1.0
