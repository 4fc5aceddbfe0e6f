"""A fleet that drains: what runs is finished, nothing is begun, and each pilot ends when it runs nothing."""

from __future__ import annotations

import pytest

from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.core.fleetview import CancelPilot, RetireReplica, StartReplica, StopReplica, SubmitPilot
from tests.unit.core.pilot_stage import D, Play, V


def test_replicas_finish_what_they_run_and_then_their_pilot_ends() -> None:
    play = Play()
    pilot = play.serve(replicas=2)
    replicas = list(play.said[pilot])
    play.fleet.is_draining = True
    assert sorted(play.step(), key=str) == [RetireReplica(each) for each in replicas]
    assert play.fleet.resting() == set(replicas)
    assert play.step(300.0) == (), "a request may take long"
    play.fleet.idle(replicas[0])
    assert play.step() == (StopReplica(replicas[0]),)
    play.said[pilot][replicas[0]] = ReplicaSaid(replicas[0], "exited", host="n1")
    play.report(pilot)
    assert CancelPilot(pilot) not in play.done
    play.fleet.idle(replicas[1])
    play.step()
    play.said[pilot][replicas[1]] = ReplicaSaid(replicas[1], "exited", host="n1")
    play.report(pilot)
    assert CancelPilot(pilot) in play.done
    assert play.fleet.orders(pilot).stop
    assert not play.fleet.is_drained
    play.end(pilot, "cancelled")
    assert play.fleet.is_drained


def test_a_pilot_that_waits_in_the_queue_is_cancelled_at_once() -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    (pilot,) = play.submitted
    play.fleet.is_draining = True
    assert play.step() == (CancelPilot(pilot),)


def test_a_pilot_that_is_cut_off_holds_nothing_that_could_be_finished() -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    play.fleet.unreachable(replica, "no connection for 4 s", play.now)
    play.fleet.away(pilot, play.now)
    play.fleet.is_draining = True
    assert CancelPilot(pilot) in play.step()


@pytest.mark.parametrize("replicas", [1, 9])
def test_nothing_is_begun_whatever_is_wanted(replicas: int) -> None:
    play = Play()
    play.serve()
    play.fleet.is_draining = True
    play.done.clear()
    play.fleet.want(D, V, replicas)
    for _ in range(3):
        play.step(100.0)
    assert not any(isinstance(each, SubmitPilot | StartReplica) for each in play.done)


def test_without_pilots_it_is_drained_at_once() -> None:
    play = Play()
    assert not play.fleet.is_drained
    play.fleet.is_draining = True
    assert play.fleet.is_drained
