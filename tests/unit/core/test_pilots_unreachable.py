"""Pilots and replicas that nobody can reach: they are replaced at once, and it is told later why."""

from __future__ import annotations

import pytest

from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.core.fleetview import CancelPilot, PilotPhase
from hpcserve.core.replicalife import TRIED_AGAIN_S
from hpcserve.types import PilotId, ReplicaId
from tests.unit.core.pilot_stage import D, Play, V


def cut_off(play: Play, pilot: PilotId) -> ReplicaId:
    """The broker has lost the pilot's agent and its one replica."""
    (replica,) = play.said[pilot]
    play.fleet.unreachable(replica, "no connection for 4 s", play.now)
    play.fleet.away(pilot, play.now)
    play.step()
    return replica


def test_what_is_unreachable_is_replaced_at_once_and_not_suspect() -> None:
    play = Play(max_pilots=1)
    pilot = play.serve()
    replica = cut_off(play, pilot)
    assert play.fleet.replicas[replica].ended
    assert not play.fleet.replicas[replica].crashed
    assert replica not in play.fleet.orders(pilot).run
    assert len(play.submitted) == 2, "beyond the most that there may be: the other does not count any more"
    assert play.losses == [], "nobody knows yet why"


def test_the_end_of_its_pilot_tells_why_a_replica_was_unreachable() -> None:
    play = Play()
    pilot = play.serve()
    replica = cut_off(play, pilot)
    play.end(pilot, "node failed", "NODE_FAIL on n1")
    assert [(loss.replica, loss.kind, loss.cause) for loss in play.losses] == [
        (replica, "node failed", "NODE_FAIL on n1")
    ]


def test_that_its_pilot_was_cancelled_since_it_was_unreachable_explains_nothing() -> None:
    play = Play(max_pilots=1)
    pilot = play.serve()
    replica = cut_off(play, pilot)
    (other,) = set(play.submitted) - {pilot}
    play.report(other)
    play.become(other, "ready")
    play.now += 10_000.0
    play.step()
    assert play.fleet.pilots[pilot].asked, "it is given up"
    play.end(pilot, "cancelled", "CANCELLED")
    assert [(loss.replica, loss.kind, loss.cause) for loss in play.losses] == [
        (replica, "unreachable", "no connection for 4 s")
    ]


def test_an_agent_that_comes_back_shows_that_it_was_the_network() -> None:
    play = Play()
    pilot = play.serve()
    replica = cut_off(play, pilot)
    play.report(pilot)
    assert play.losses == [], "it has not been ended yet: srun may say meanwhile that its node failed"
    play.said[pilot][replica] = ReplicaSaid(replica, "exited", host="n1")
    play.report(pilot)
    assert [(loss.replica, loss.kind) for loss in play.losses] == [(replica, "unreachable")]
    assert replica not in play.fleet.orders(pilot).run, "others do its work by now"
    assert play.fleet.pilots[pilot].away_since_s is None


@pytest.mark.parametrize(
    ("host", "agent_away_s", "replica_away_s", "lost_at_s"),
    [
        ("n1", None, [4.0], None),
        ("n1", None, [4.0, 6.0, 8.0, 600.0], None),
        ("n1", 4.0, [], None),
        ("n1", 4.0, [5.0], 5.0),
        ("n1", 5.0, [4.0], 5.0),
        ("n1", 5.0, [4.0, 6.0], 5.0),
        ("n1", 64.0, [4.0, 6.0], None),
        ("n1", 64.0, [4.0, 6.0, 66.0], 66.0),
        ("n2", None, [4.0], 4.0),
        ("n2", 5.0, [4.0], 4.0),
        ("", None, [4.0], 4.0),
    ],
)
def test_a_replica_is_missed_once_its_own_agent_has_it_no_more_in_its_sight(
    host: str, agent_away_s: float | None, replica_away_s: list[float], lost_at_s: float | None
) -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    play.become(pilot, "ready", host=host)
    began_s = play.now
    events = [*((at_s, "replica") for at_s in replica_away_s)]
    if agent_away_s is not None:
        events.append((agent_away_s, "agent"))
    found = None
    for at_s, who in sorted(events):
        play.now = began_s + at_s
        if who == "agent":
            play.fleet.away(pilot, play.now, at_s)
        else:
            play.fleet.unreachable(replica, "no connection", play.now)
        if found is None and play.fleet.replicas[replica].ended:
            found = at_s
    assert found == lost_at_s
    assert play.fleet.pilots[pilot].away_since_s in (None, began_s)


def test_a_replica_that_its_agent_saw_end_is_missed() -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    play.fleet.pilots[pilot].said = (ReplicaSaid(replica, "exited", host="n1"),)
    play.fleet.unreachable(replica, "no connection", play.now)
    assert play.fleet.replicas[replica].ended


def test_one_that_comes_back_when_it_was_replaced_does_not_stay_beyond_the_most() -> None:
    play = Play(max_pilots=1)
    play.fleet.want(D, V, 2)
    play.step()
    (first,) = play.submitted
    play.report(first)
    play.become(first, "ready")
    lost, _ = play.said[first]
    play.fleet.away(first, play.now)
    play.fleet.unreachable(lost, "no connection for 4 s", play.now)
    play.step()
    (second,) = set(play.submitted) - {first}
    play.report(second)
    assert len(play.said[second]) == 2
    play.said[first][lost] = ReplicaSaid(lost, "exited", host="n1")
    play.report(first)  # before those in its place are ready
    for _ in range(3):
        for pilot in (first, second):
            _obey(play, pilot)
    (ended,) = (each.pilot for each in play.done if isinstance(each, CancelPilot))
    assert {replica.pilot for replica in play.fleet.replicas.values() if not replica.ended} == {first, second} - {ended}


def _obey(play: Play, pilot: PilotId) -> None:
    """The agent does what it is told, and what it runs is ready; retiring replicas hold nothing."""
    run = play.fleet.orders(pilot).run
    for replica, said in play.said[pilot].items():
        if said.state != "exited":
            play.said[pilot][replica] = ReplicaSaid(replica, "ready" if replica in run else "exited", host="n1")
    play.report(pilot)
    for replica in play.said[pilot]:
        play.fleet.idle(replica)


def test_a_pilot_whose_agent_stays_away_is_cancelled() -> None:
    play = Play()
    pilot = play.serve()
    cut_off(play, pilot)
    assert CancelPilot(pilot) not in play.done
    play.step(300.0)
    assert CancelPilot(pilot) in play.done


def adopted(play: Play, phase: PilotPhase) -> PilotId:
    """A pilot of an earlier controller, of which the scheduler has spoken since."""
    pilot = PilotId("earlier")
    play.fleet.want(D, V, 1)
    play.fleet.adopt_pilot(pilot, 2, play.now)
    play.fleet.job_seen(pilot, phase)
    play.step()
    assert play.submitted == [], "it is room enough"
    return pilot


def test_an_agent_that_a_new_controller_never_heard_is_replaced_when_it_is_missed() -> None:
    play = Play()
    pilot = adopted(play, "running")
    play.fleet.away(pilot, play.now)
    play.step()
    assert len(play.submitted) == 1
    play.step(300.0)
    assert CancelPilot(pilot) in play.done


def test_an_agent_that_has_never_reported_is_not_missed() -> None:
    play = Play()
    play.fleet.want(D, V, 1)
    play.step()
    (pilot,) = play.submitted
    play.fleet.away(pilot, play.now)
    play.step()
    assert play.submitted == [pilot]


def test_the_agent_of_the_run_before_a_requeue_is_not_missed() -> None:
    play = Play()
    pilot = adopted(play, "running")
    play.note(play.fleet.requeued(pilot, "it was preempted", play.now, kind="preempted"))
    play.fleet.away(pilot, play.now)
    play.step()
    assert play.submitted == []


def test_a_lost_node_of_several_takes_nothing_more_and_the_others_go_on() -> None:
    play = Play(nodes=2)
    pilot = play.serve(replicas=4)
    first, second, *others = play.said[pilot]
    for each in (first, second):
        play.said[pilot][each] = ReplicaSaid(each, "ready", host="n2")
    play.report(pilot)
    play.fleet.unreachable(second, "no connection", play.now)
    play.step()
    assert play.fleet.orders(pilot).lost_nodes == (), "another replica there is well: it may be this one alone"
    play.fleet.unreachable(first, "no connection", play.now)
    play.step()
    assert play.fleet.orders(pilot).lost_nodes == ("n2",)
    assert set(others) <= set(play.fleet.orders(pilot).run)
    play.report(pilot)  # the agent has the order, and its processes have not ended yet
    play.said[pilot][first] = ReplicaSaid(first, "exited", "srun: Node failure on n2", kind="node failed", host="n2")
    play.report(pilot, lost_nodes=("n2",))
    assert {(loss.replica, loss.kind, loss.told) for loss in play.losses} >= {(first, "node failed", True)}


def spread() -> tuple[Play, PilotId, ReplicaId, ReplicaId]:
    """A pilot with a replica on each of its nodes; the first is on its agent's."""
    play = Play(nodes=2)
    pilot = play.serve(replicas=2)
    near, far = play.said[pilot]
    play.said[pilot][far] = ReplicaSaid(far, "ready", host="n2")
    play.report(pilot)
    return play, pilot, near, far


def two_nodes() -> tuple[Play, PilotId, ReplicaId]:
    """The same, when the second node cannot be reached."""
    play, pilot, _, far = spread()
    play.fleet.unreachable(far, "no connection", play.now)
    play.step()
    assert play.fleet.orders(pilot).lost_nodes == ("n2",)
    return play, pilot, far


@pytest.mark.parametrize("missed", [["far", "near", "agent"], ["agent", "near", "far"], ["near", "agent", "far"]])
def test_a_cut_of_all_of_a_pilot_takes_no_node_for_lost(missed: list[str]) -> None:
    play, pilot, near, far = spread()
    for each in missed:
        if each == "agent":
            play.fleet.away(pilot, play.now, 4.0)
        else:
            play.fleet.unreachable(near if each == "near" else far, "no connection", play.now, for_s=4.0)
    play.report(pilot)
    assert {near, far} & set(play.fleet.orders(pilot).run) == set(), "others do their work by now"
    assert play.fleet.orders(pilot).lost_nodes == ()
    play.step(300.0)
    assert CancelPilot(pilot) not in play.done


def test_the_node_of_an_agent_that_reports_is_not_lost() -> None:
    play, pilot, near, _ = spread()
    play.fleet.unreachable(near, "no connection", play.now, for_s=300.0)
    assert play.fleet.replicas[near].ended, "it may be stopped"
    play.step()
    assert play.fleet.orders(pilot).lost_nodes == ()


def test_a_node_that_was_taken_for_lost_is_tried_again() -> None:
    play, pilot, far = two_nodes()
    play.said[pilot][far] = ReplicaSaid(far, "exited", kind="node failed", host="n2")
    play.report(pilot)
    play.step(TRIED_AGAIN_S - 3.0)
    assert play.fleet.orders(pilot).lost_nodes == ("n2",)
    play.step(1.0)
    assert play.fleet.orders(pilot).lost_nodes == ()


def test_a_node_that_was_taken_for_lost_stays_so_when_srun_says_it() -> None:
    play, pilot, _ = two_nodes()
    play.report(pilot, lost_nodes=("n2",))
    assert play.fleet.orders(pilot).lost_nodes == ("n2",)
    play.step(TRIED_AGAIN_S)
    assert play.fleet.orders(pilot).lost_nodes == ("n2",)


def test_a_new_controller_does_not_know_which_nodes_were_missed() -> None:
    play, pilot, far = two_nodes()
    near = next(each for each in play.said[pilot] if each != far)
    play.said[pilot][far] = ReplicaSaid(far, "exited", kind="node failed", host="n2")
    play.take_over()
    play.fleet.want(D, V, 2)
    play.fleet.adopt_pilot(pilot, 4, play.now)
    for each in (near, far):
        play.fleet.adopt_replica(each, D, V, pilot)
    play.report(pilot)
    assert play.fleet.orders(pilot).lost_nodes == ()
    assert len(play.fleet.orders(pilot).run) == 2, "another one is started in the pilot"
    (_, latest) = play.fleet.orders(pilot).run
    play.said[pilot][latest] = ReplicaSaid(latest, "ready", host="n2")
    play.report(pilot)
    play.fleet.unreachable(latest, "no connection", play.now)
    assert play.fleet.orders(pilot).lost_nodes == ("n2",), "it finds out by itself"


def test_a_node_that_is_missed_again_is_taken_for_lost_again() -> None:
    play, pilot, _ = two_nodes()
    play.step(TRIED_AGAIN_S)
    (latest,) = [each for each in play.fleet.orders(pilot).run if play.fleet.replicas[each].state == "starting"]
    play.said[pilot][latest] = ReplicaSaid(latest, "ready", host="n2")
    play.report(pilot)
    play.fleet.unreachable(latest, "no connection", play.now)
    play.step()
    assert play.fleet.orders(pilot).lost_nodes == ("n2",)


def test_a_node_that_its_agent_lost_stays_lost() -> None:
    play = Play(nodes=2)
    pilot = play.serve(replicas=2)
    play.report(pilot, lost_nodes=("n2",))
    play.step(TRIED_AGAIN_S)
    assert play.fleet.orders(pilot).lost_nodes == ("n2",)


def test_a_replica_of_a_pilot_that_is_no_more_is_not_missed() -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    del play.fleet.pilots[pilot]
    play.fleet.unreachable(replica, "no connection", play.now)
    assert play.losses == []


def test_a_replica_that_its_agent_lost_with_a_node_is_not_suspect() -> None:
    play = Play(nodes=2)
    pilot = play.serve()
    (replica,) = play.said[pilot]
    play.become(pilot, "exited", kind="node failed", host="n2")
    assert not play.fleet.replicas[replica].crashed
    assert [loss.kind for loss in play.losses] == ["node failed"]
    assert play.fleet.deployments[D].not_before_s == 0.0, "it is replaced without a pause"


def test_a_replica_that_is_missed_for_long_is_replaced_though_its_process_lives() -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    play.said[pilot][replica] = ReplicaSaid(replica, "ready", host="n1")
    play.report(pilot)
    news = []
    # It is there again meanwhile, and missed for the second time.
    for at_s, for_s, ended in ((4, 4, False), (6, 6, False), (60, 4, False), (356, 300, True)):
        news.append(play.fleet.unreachable(replica, "no connection", at_s + play.now, for_s=for_s))
        assert play.fleet.replicas[replica].ended == ended
    assert news == [True, False, True, True]
    assert not play.fleet.unreachable(replica, "no connection", 358 + play.now, for_s=302.0)
