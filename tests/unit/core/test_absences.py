"""Who is reported as away, when, and who is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core import actions as act
from hpcserve.core.absences import AGAIN_S, AGENT, REPLICA, SHAKEN_S, STILL_S, Absences
from hpcserve.core.exchange import Exchange
from tests.unit.core.exchange_desk import LIMITS, Desk

UNREACHABLE_S, GRACE_S = 4.0, 10.0
STEP_S = 0.5


class Watch:
    """Absences to which time is told twice a second, unless the process stands still."""

    def __init__(self) -> None:
        self.now = 100.0
        self.absences = Absences(UNREACHABLE_S, GRACE_S, self.now)

    def passes(self, seconds: float) -> list[tuple[float, str, str]]:
        """When who was reported, counted from now."""
        began, found = self.now, []
        while self.now < began + seconds:
            self.now += STEP_S
            found += [(self.now - began, each.role, each.subject) for each in self.absences.tick(self.now)]
        return found

    def gone(self, role: str, id: str) -> None:
        self.absences.gone(role, id, self.now)

    def stands_still(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.mark.parametrize("role", [AGENT, REPLICA])
def test_who_stays_away_is_reported_in_time_and_again(watch: Watch, role: str) -> None:
    watch.gone(role, "x")
    assert watch.absences.next_report() == watch.now + UNREACHABLE_S
    assert watch.passes(9.0) == [(at, role, "x") for at in (4.0, 4.0 + AGAIN_S, 4.0 + 2 * AGAIN_S)]


@pytest.mark.parametrize("away_s", [0.5, 3.5])
def test_who_comes_back_in_time_is_not_reported(watch: Watch, away_s: float) -> None:
    watch.gone(AGENT, "p")
    assert watch.passes(away_s) == []
    watch.absences.over(AGENT, "p")
    assert watch.passes(20.0) == []


def test_the_time_counts_from_when_it_was_first_missed(watch: Watch) -> None:
    watch.gone(REPLICA, "r")
    watch.passes(3.0)
    watch.gone(REPLICA, "r")
    assert watch.passes(1.0) == [(1.0, REPLICA, "r")]


def test_an_agent_that_was_let_in_has_the_recoverys_grace(watch: Watch) -> None:
    watch.absences.expected("p", watch.now)
    assert watch.passes(9.5) == []
    assert watch.passes(0.5) == [(0.5, AGENT, "p")]


def test_one_that_stood_still_gives_all_their_time_anew(watch: Watch) -> None:
    watch.gone(REPLICA, "r")
    watch.passes(1.0)
    watch.stands_still(30.0)
    assert watch.passes(UNREACHABLE_S) == []
    assert watch.passes(STEP_S) == [(STEP_S, REPLICA, "r")]


@pytest.mark.parametrize(("after_s", "told"), [(0.0, False), (SHAKEN_S - STEP_S, False), (SHAKEN_S + STEP_S, True)])
def test_a_replica_is_not_blamed_for_a_pause_of_ours(watch: Watch, after_s: float, *, told: bool) -> None:
    watch.stands_still(STILL_S + 0.1)
    watch.passes(after_s)
    watch.gone(REPLICA, "r")
    watch.gone(AGENT, "p")
    assert {subject for _, _, subject in watch.passes(6.0)} == ({"r", "p"} if told else {"p"})


@given(st.lists(st.sampled_from(["gone", "over", "expected", "still", "time"]), max_size=40))
def test_only_who_is_away_is_reported_and_never_too_early(events: list[str]) -> None:
    watch, since = Watch(), None
    for event in events:
        if event == "gone":
            watch.gone(AGENT, "p")
        elif event == "expected":
            watch.absences.expected("p", watch.now)
        elif event == "over":
            watch.absences.over(AGENT, "p")
            since = None
        elif event == "still":
            watch.stands_still(3.0)
        if event in ("gone", "expected") and since is None:
            since = watch.now
        began = watch.now
        for at, _, _ in watch.passes(STEP_S):
            assert since is not None
            assert began + at - since >= UNREACHABLE_S
    if since is not None:
        assert watch.passes(GRACE_S + UNREACHABLE_S)


def away(desk: Desk, seconds: float) -> list[str]:
    until = desk.now + seconds
    while desk.now < until:
        desk.now += STEP_S
        desk.exchange.tick(desk.now)
    return [each.subject for each in desk.took(act.ReportAway)]


@pytest.fixture
def desk() -> Desk:
    return Desk(exchange=Exchange(LIMITS, 0.0))


def test_the_broker_reports_a_replica_and_gives_its_work_away_when_it_is_taken_out(desk: Desk) -> None:
    desk.serve("r1", "r2", credit=1)
    session = desk.client()
    first, second = desk.ask(session, 1), desk.ask(session, 2)
    assert sorted(desk.given()) == [("r1", 1), ("r2", 2)]
    desk.exchange.replica_gone(b"r1", desk.now)
    assert away(desk, UNREACHABLE_S - STEP_S) == []
    assert desk.exchange.tick(desk.now) <= desk.now + STEP_S
    assert away(desk, STEP_S) == ["r1"]
    desk.route("r2")
    desk.answer("r2", second, credit=1)
    assert desk.given() == [("r2", 1)]
    assert not session.entries[first[1]].suspect
    assert away(desk, 20.0) == []


def test_a_replica_that_comes_back_is_not_reported(desk: Desk) -> None:
    desk.serve("r1")
    desk.exchange.replica_gone(b"r1", desk.now)
    assert away(desk, 2.0) == []
    assert desk.inventory("r1", connection=b"again")
    assert away(desk, 20.0) == []


def test_one_that_this_broker_has_not_seen_is_not_reported(desk: Desk) -> None:
    """It may be in a long call since before this broker."""
    desk.route("r1")
    assert away(desk, 60.0) == []
