"""A pilot nears the end of its walltime: its successor comes in time, and it begins nothing that it cannot finish."""

from __future__ import annotations

import pytest

from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.core.fleetview import CancelPilot, RetireReplica
from hpcserve.core.succession import Succession
from tests.unit.core.pilot_stage import D, Play, V


def test_a_successor_is_submitted_in_time_and_takes_over_before_the_end() -> None:
    play = Play(max_pilots=1)
    first = play.serve()
    end_s = play.ends_s[first]
    while len(play.submitted) == 1 and play.now < end_s:
        play.step(1.0)
    lead_s = end_s - play.now
    assert lead_s == pytest.approx(play.fleet.succession.lead_s(0.0), abs=2.0)
    (second,) = play.said.keys() - {first}
    (old,) = play.said[first]
    assert RetireReplica(old) not in play.done, "it works on until there is another"
    play.report(second)
    play.become(second, "ready")
    assert RetireReplica(old) in play.done
    play.fleet.idle(old)
    play.step()
    play.said[first][old] = ReplicaSaid(old, "exited", "stopped as ordered")
    play.report(first)
    play.said[first].clear()
    play.report(first)
    assert CancelPilot(first) in play.done, "a pilot that closes and holds nothing gives its nodes back"


def test_without_a_successor_a_pilot_drains_before_its_end_by_the_longest_request() -> None:
    play = Play()
    pilot = play.serve()
    (replica,) = play.said[pilot]
    play.fleet.longest_s = {D: 40.0}
    while RetireReplica(replica) not in play.done and play.now < play.ends_s[pilot]:
        play.step(1.0)
    assert play.ends_s[pilot] - play.now == pytest.approx(play.fleet.succession.drain_s(40.0), abs=2.0)


def test_waits_and_setups_are_learned() -> None:
    learned = Succession(walltime_s=10_000.0, margin_s=10.0, first_wait_s=600.0)
    assert learned.lead_s(0.0) == 610.0
    learned.waited(20.0)
    learned.set_up(4.0)
    assert learned.lead_s(0.0) == 1.5 * 20.0 + 1.5 * 4.0 + 10.0
    for _ in range(8):
        learned.waited(2.0)
    assert learned.lead_s(0.0) == 1.5 * 2.0 + 1.5 * 4.0 + 10.0, "what was long ago is forgotten"
    assert learned.lead_s(100.0) - learned.lead_s(0.0) == 150.0
    assert learned.lead_s(1e9) == 5_000.0, "half of its walltime a pilot works undisturbed"
    assert learned.drain_s(1e9) == 5_000.0 - 1.5 * 2.0 - 1.5 * 4.0, "and it works until its successor can be there"
    learned.waited(9_000.0)
    assert learned.drain_s(1e9) == learned.margin_s


def test_a_pilot_that_closes_is_not_opened_again_by_what_is_measured_later() -> None:
    play = Play()
    pilot = play.serve()
    play.fleet.longest_s = {D: 40.0}
    while len(play.submitted) == 1 and play.now < play.ends_s[pilot]:
        play.step(1.0)
    assert len(play.submitted) == 2
    (second,) = play.said.keys() - {pilot}
    play.report(second)
    play.become(second, "ready")
    (old,) = play.said[pilot]
    assert RetireReplica(old) in play.done
    play.fleet.longest_s = {}
    play.fleet.want(D, V, 3)
    for _ in range(5):
        play.step(1.0)
    assert list(play.said[pilot]) == [old], "it gets no replica any more"


def test_a_pilot_that_is_empty_closes_as_early_as_it_would_with_replicas() -> None:
    """Otherwise it would be open until it has one, which it would lose again."""
    play = Play(max_pilots=1)
    pilot = play.serve()
    play.fleet.longest_s = {D: 40.0}
    play.said[pilot].clear()
    play.now = play.ends_s[pilot] - play.fleet.succession.lead_s(40.0) + 1.0
    play.report(pilot)
    for _ in range(5):
        play.step(1.0)
    assert play.said.get(pilot, {}) == {}
    assert len(play.submitted) == 2
