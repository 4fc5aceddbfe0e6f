"""What a bounded queue refuses, ends and counts, and when whoever was refused is to come back."""

from __future__ import annotations

import pytest

from hpcserve.core import actions as act
from hpcserve.core.lanes import LACKS_AGAIN_S, LATEST_S, SOONEST_S, Lane
from hpcserve.core.queue import MOST_PRIORITIES
from hpcserve.core.sessions import Session
from hpcserve.errors import DeadlineExceeded, Overloaded
from hpcserve.types import ReplicaId
from tests.unit.core.exchange_desk import NAME, Desk

CENTURY_MS = 100 * 365 * 24 * 3600 * 1000


class Bounded(Desk):
    """A deployment whose queue has bounds."""

    def bound(self, *names: str, max_queue_bytes: float = 1e9, max_queue_s: float = 1e9) -> None:
        self.route(*names, max_queue_bytes=max_queue_bytes, max_queue_s=max_queue_s)

    @property
    def lane(self) -> Lane:
        return self.exchange.lanes[NAME]

    def serve_for(self, seconds: float, per_s: int) -> None:
        """Time in which the lane's replicas answer, as the lane counts it."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.lane.answered += per_s // 10
            self.exchange.tick(self.now)


@pytest.fixture
def desk() -> Bounded:
    made = Bounded()
    made.serve("r")
    return made


def filled(desk: Bounded, count: int, name: str = "flood", priority: int = 0) -> Session:
    """A session with so many requests, of which the first two are at the replica."""
    session = desk.client(name)
    for id in range(1, count + 1):
        desk.ask(session, id, priority=priority)
    return session


def test_a_request_that_would_wait_too_long_is_refused_at_once_and_told_when_to_come_back(desk: Bounded) -> None:
    flood = filled(desk, 22)
    desk.bound("r", max_queue_s=1.0)
    desk.serve_for(1.0, per_s=10)
    assert not desk.told()
    desk.ask(flood, 23)
    error = desk.error()
    assert isinstance(error, Overloaded)
    assert error.message.startswith(f"deployment '{NAME}': a request would wait about 2 s, and max_queue_s is 1 s")
    assert error.retry_after_s == pytest.approx(1.2)
    assert (desk.lane.refused, desk.exchange.counts.refused) == (1, 1)
    assert desk.lane.wait_s == pytest.approx(2.0)


def test_while_the_rate_is_unknown_everything_may_wait(desk: Bounded) -> None:
    desk.bound("r", max_queue_s=0.001)
    filled(desk, 40)
    assert not desk.told()
    assert desk.lane.wait_s is None
    assert desk.lane.queue.count == 38


def test_a_request_that_cannot_make_its_own_deadline_is_refused(desk: Bounded) -> None:
    flood = filled(desk, 22)
    desk.serve_for(1.0, per_s=10)
    desk.ask(flood, 23, remaining_ms=1500)
    error = desk.error()
    assert isinstance(error, Overloaded)
    assert "its deadline is in 1.5 s" in error.message
    assert error.retry_after_s == pytest.approx(0.5)
    desk.ask(flood, 24, remaining_ms=CENTURY_MS)
    desk.ask(flood, 25)
    assert not desk.told()


@pytest.mark.parametrize("remaining_ms", [0, -1, -CENTURY_MS])
def test_a_request_without_time_left_expires_and_is_not_asked_to_come_back(desk: Bounded, remaining_ms: int) -> None:
    flood = filled(desk, 22)
    desk.serve_for(1.0, per_s=10)
    desk.ask(flood, 23, remaining_ms=remaining_ms)
    desk.exchange.tick(desk.now)
    assert isinstance(desk.error(), DeadlineExceeded)
    assert (desk.lane.expired, desk.lane.refused) == (1, 0)


def test_an_idle_replica_takes_what_no_queue_would(desk: Bounded) -> None:
    desk.bound("r", max_queue_bytes=1, max_queue_s=0.001)
    desk.ask(desk.client(), 1, size_bytes=90)
    assert desk.given() == [("r", 1)]


def test_bytes_that_do_not_fit_are_refused_until_they_are_served(desk: Bounded) -> None:
    flood = desk.client("flood")
    desk.bound("r", max_queue_bytes=40)
    for id in range(1, 7):
        desk.ask(flood, id, size_bytes=10)
    assert not desk.told()
    assert desk.lane.queue.bytes == 40
    desk.ask(flood, 7, size_bytes=10)
    error = desk.error()
    assert "40 of 40 bytes are queued before it (max_queue_bytes)" in error.message
    assert error.retry_after_s == SOONEST_S
    desk.serve_for(1.0, per_s=1)
    desk.lane.pace.per_s = 0.5
    desk.ask(flood, 8, size_bytes=10)
    assert desk.error().retry_after_s == pytest.approx(2.0)  # one of the four, at one in two seconds
    desk.answer("r", (flood.id, next(iter(flood.entries))))
    desk.ask(flood, 9, size_bytes=10)
    assert not desk.told()


def test_nobody_is_told_to_come_back_in_an_hour_or_in_an_instant(desk: Bounded) -> None:
    flood = filled(desk, 40)
    desk.bound("r", max_queue_s=1.0)
    desk.serve_for(0.9, per_s=10)
    for per_s, expected in ((0.001, LATEST_S), (47.4, SOONEST_S)):
        desk.lane.pace.per_s = per_s
        desk.ask(flood, 100)
        assert desk.error().retry_after_s == expected


def test_an_urgent_request_counts_only_what_is_before_it(desk: Bounded) -> None:
    flood = filled(desk, 42)
    desk.bound("r", max_queue_bytes=45, max_queue_s=1.0)
    desk.serve_for(0.9, per_s=10)
    desk.ask(flood, 99)
    assert isinstance(desk.error(), Overloaded)
    urgent = desk.client("urgent")
    for id in range(1, 30):  # eight of them go past the credit
        desk.ask(urgent, id, priority=1)
    assert desk.lane.queue.before(urgent, 1) == (9, 9)
    assert len(desk.told()) == 29 - 8 - 9


def test_a_flood_does_not_shut_out_a_second_session(desk: Bounded) -> None:
    flood = filled(desk, 42)
    desk.bound("r", max_queue_s=1.0)
    desk.serve_for(0.9, per_s=10)
    desk.ask(flood, 99)
    assert isinstance(desk.error(), Overloaded)
    second = desk.client("second")
    for id in range(1, 5):
        desk.ask(second, id)
    assert not desk.told()
    assert desk.lane.queue.before(second, 0) == (4 + 5, 44)


def test_of_many_priorities_none_is_told_from_another(desk: Bounded) -> None:
    desk.exchange.limits = desk.exchange.limits._replace(max_queued=1000, session_bytes=1000)
    session, other = desk.client(), desk.client("other")
    for id in range(1, MOST_PRIORITIES + 3):
        desk.ask(session, id, priority=-id)
    assert desk.lane.queue.before(other, -20) == (18, 18)  # 3 to 20
    desk.ask(session, MOST_PRIORITIES + 3, priority=-MOST_PRIORITIES - 3)
    assert desk.lane.queue.before(other, -20) == (MOST_PRIORITIES + 1, MOST_PRIORITIES + 1)


def test_what_has_waited_too_long_is_ended_before_it_runs_and_may_come_back(desk: Bounded) -> None:
    desk.bound("r", max_queue_s=1.0)
    session = filled(desk, 5)
    assert [id for _, id in desk.given()] == [1, 2]
    desk.now = 1.0
    desk.exchange.tick(desk.now)
    told = desk.told()
    assert [id for id, _ in told] == [3, 4, 5]
    for _, error in told:
        assert isinstance(error, Overloaded)
        assert "not begun within 1 s (max_queue_s); it did not run" in error.message
        assert error.retry_after_s == SOONEST_S
    counts = desk.exchange.counts
    assert (counts.requests, counts.refused, counts.failed, desk.lane.refused) == (2, 3, 0, 3)
    assert desk.exchange.queued == desk.lane.queue.count == desk.lane.queue.bytes == 0
    desk.answer("r", (session.id, 1))  # type: ignore[arg-type]
    desk.ask(session, 3)
    assert [id for _, id in desk.given()] == [3]


def test_it_is_ended_even_when_a_replica_is_free_before_the_clock_is_looked_at(desk: Bounded) -> None:
    desk.bound("r", max_queue_s=1.0)
    session = filled(desk, 3)
    desk.given()
    desk.now = 1.0
    desk.answer("r", (session.id, 1))  # type: ignore[arg-type]
    assert not desk.given()
    assert isinstance(desk.error(), Overloaded)


def test_what_a_replica_had_already_is_not_turned_away(desk: Bounded) -> None:
    desk.bound("r", max_queue_s=1.0)
    session = filled(desk, 1)
    desk.now = 5.0
    desk.bound()
    assert desk.lane.queue.count == 1
    desk.now = 50.0
    desk.exchange.tick(desk.now)
    assert not desk.told()
    desk.bound("s", max_queue_s=1.0)
    desk.inventory("s")
    assert [id for _, id in desk.given()] == [1, 1]
    assert session.entries


def test_a_queued_request_wakes_the_broker_when_it_has_waited_too_long(desk: Bounded) -> None:
    desk.bound("r", max_queue_s=0.25)
    filled(desk, 3)
    assert desk.exchange.tick(0.0) == pytest.approx(0.25)


def test_deadlines_at_the_queue_are_counted_for_their_deployment(desk: Bounded) -> None:
    session = filled(desk, 2)
    for id in (3, 4):
        desk.ask(session, id, remaining_ms=100)
    desk.now = 0.2
    desk.exchange.tick(desk.now)
    assert desk.lane.expired == 2
    assert len(desk.told()) == 2
    assert not [each for each in desk.took(act.Give) if each.entry.id > 2]


def test_replicas_that_come_and_go_change_what_is_expected(desk: Bounded) -> None:
    flood = filled(desk, 42)
    desk.serve_for(1.0, per_s=10)
    desk.ask(flood, 98, remaining_ms=2000)
    assert isinstance(desk.error(), Overloaded)
    desk.exchange.replica_gone(b"r", desk.now)
    desk.exchange.tick(desk.now)
    desk.ask(flood, 99, remaining_ms=2000)  # who knows when there will be one
    assert not desk.told()
    assert ReplicaId("r") in desk.exchange.replicas


def test_that_requests_wait_where_no_replica_is_wanted_is_said_now_and_then() -> None:
    desk = Bounded()
    desk.route()
    session = desk.client()
    desk.ask(session, 1)
    assert desk.took(act.ReportLacking) == [act.ReportLacking(NAME)]
    desk.ask(session, 2)
    assert desk.took(act.ReportLacking) == []
    desk.now += LACKS_AGAIN_S
    desk.ask(session, 3)
    assert desk.took(act.ReportLacking) == [act.ReportLacking(NAME)]
    desk.route("r")
    desk.now += LACKS_AGAIN_S
    desk.ask(session, 4)
    assert desk.took(act.ReportLacking) == []
    assert desk.lane.came == 4
