"""When a replica is to be killed because nobody waits any more for what it runs."""

from __future__ import annotations

import pytest

from hpcserve.core import actions as act
from hpcserve.types import Counter, RequestKey, SessionId
from tests.unit.core.exchange_desk import Desk

KILL_S = 5.0


def desk_with(*, kill_cancelled_s: float | None = KILL_S) -> Desk:
    desk = Desk()
    desk.route("a", kill_cancelled_s=kill_cancelled_s)
    desk.inventory("a", credit=10)
    return desk


def runs(desk: Desk, *keys: RequestKey) -> None:
    desk.exchange.runs(desk.replica("a"), keys)


def reported(desk: Desk, after_s: float = 0.0) -> list[float]:
    """Time passes; returns since when each replica that is to be killed has run in vain."""
    desk.now += after_s
    desk.exchange.tick(desk.now)
    return [action.for_s for action in desk.took(act.ReportUnwanted)]


def test_a_replica_whose_requests_are_all_cancelled_is_reported_when_its_time_is_over() -> None:
    desk = desk_with()
    session = desk.client()
    first, second = desk.ask(session, 1), desk.ask(session, 2)
    runs(desk, first, second)
    assert reported(desk, 100.0) == []
    desk.ack(session, 1, 1)
    assert reported(desk, 100.0) == [], "a batch-mate is still wanted"
    desk.ack(session, 1, 2)
    assert reported(desk) == []
    assert desk.exchange.tick(desk.now) <= desk.now + KILL_S
    assert reported(desk, KILL_S - 0.1) == []
    assert reported(desk, 0.1) == [pytest.approx(KILL_S)]


def test_without_the_policy_nothing_is_killed() -> None:
    desk = desk_with(kill_cancelled_s=None)
    session = desk.client()
    runs(desk, desk.ask(session, 1))
    desk.ack(session, 1, 1)
    assert [reported(desk, 100.0) for _ in range(3)] == [[], [], []]


def test_what_waits_behind_does_not_count_for_or_against() -> None:
    desk = desk_with()
    session = desk.client()
    first, second = desk.ask(session, 1), desk.ask(session, 2)
    runs(desk, first)
    desk.ack(session, 1, 2)
    assert [reported(desk, KILL_S) for _ in range(3)] == [[], [], []]
    runs(desk, second)
    assert reported(desk) == []
    assert reported(desk, KILL_S) == [KILL_S]


def test_what_waits_behind_and_must_not_run_twice_prevents_it() -> None:
    desk = desk_with()
    session = desk.client()
    runs(desk, desk.ask(session, 1))
    desk.ask(session, 2, method="pay")
    desk.ack(session, 1, 1)
    assert [reported(desk, KILL_S) for _ in range(3)] == [[], [], []]
    desk.ack(session, 1, 2)
    assert reported(desk) == []
    assert reported(desk, KILL_S) == [KILL_S]


def test_a_run_that_ends_or_gives_way_to_another_is_forgotten() -> None:
    desk = desk_with()
    session = desk.client()
    first, second = desk.ask(session, 1), desk.ask(session, 2)
    runs(desk, first)
    desk.ack(session, 1, 1)
    assert reported(desk) == []
    desk.answer("a", first)
    assert [reported(desk, KILL_S) for _ in range(3)] == [[], [], []]
    runs(desk, second)
    assert [reported(desk, KILL_S) for _ in range(3)] == [[], [], []]


def test_a_client_that_comes_back_for_it_stops_the_clock() -> None:
    desk = desk_with()
    session = desk.client()
    runs(desk, desk.ask(session, 1))
    desk.exchange.client_gone(b"c", desk.now)
    assert reported(desk, 59.0) == []
    assert reported(desk, 1.0) == []
    assert reported(desk, KILL_S - 0.1) == []
    desk.client("c", 1)
    assert [reported(desk, KILL_S) for _ in range(3)] == [[], [], []]


def test_what_lay_behind_goes_on_elsewhere_and_is_no_suspect() -> None:
    desk = desk_with()
    session = desk.client()
    runs(desk, desk.ask(session, 1))
    desk.ask(session, 2)
    desk.ack(session, 1, 1)
    desk.took(act.Give)
    desk.route("b")
    desk.inventory("b", credit=10)
    assert desk.given() == [("b", 2)]
    assert not desk.replica("b").exclusive
    assert set(desk.states(session)) == {2}


def test_a_stream_that_somebody_reads_prevents_it() -> None:
    desk = desk_with()
    session, reader = desk.client(), desk.client("reader")
    stream = desk.ask(reader, 1)
    desk.exchange.items(desk.replica("a"), stream, first=0, count=1, body="items", size_bytes=1, now=desk.now)
    runs(desk, desk.ask(session, 1))
    desk.ack(session, 1, 1)
    assert [reported(desk, KILL_S) for _ in range(3)] == [[], [], []]
    desk.ack(reader, 1, 1)
    assert reported(desk) == []
    assert reported(desk, KILL_S) == [KILL_S]


def test_one_that_is_to_be_killed_gets_nothing_more() -> None:
    desk = desk_with()
    session = desk.client()
    runs(desk, desk.ask(session, 1))
    desk.ack(session, 1, 1)
    reported(desk)
    assert reported(desk, KILL_S) == [KILL_S]
    assert desk.given() == [("a", 1)]
    desk.ask(session, 2, method="pay")
    desk.route("a", "b", kill_cancelled_s=KILL_S)
    assert desk.given() == []
    desk.inventory("b")
    assert desk.given() == [("b", 2)]
    desk.route("b", kill_cancelled_s=KILL_S)
    assert desk.told() == []


def test_one_that_nobody_kills_has_work_again_when_its_run_is_over() -> None:
    """The controller may have been away, and is not asked again."""
    desk = desk_with()
    session = desk.client()
    first = desk.ask(session, 1)
    runs(desk, first)
    desk.ack(session, 1, 1)
    reported(desk)
    assert reported(desk, KILL_S) == [KILL_S]
    assert desk.given() == [("a", 1)]
    desk.answer("a", first)
    desk.ask(session, 2)
    reported(desk, 4.9)
    assert desk.given() == []
    reported(desk, 0.1)
    assert desk.given() == [("a", 2)]


def test_one_that_hangs_gets_nothing_more_either() -> None:
    desk = desk_with(kill_cancelled_s=None)
    session = desk.client()
    desk.ask(session, 1, remaining_ms=1000)
    desk.given()
    desk.now = 7.0
    desk.exchange.tick(desk.now)
    assert len(desk.took(act.ReportHung)) == 1
    desk.ask(session, 2)
    assert desk.given() == []


@pytest.mark.parametrize("reader", ["d", "away"])
def test_what_an_earlier_broker_gave_out_may_be_such_that_it_must_not_run_twice(reader: str) -> None:
    desk = desk_with()
    desk.now = 1.0
    session = desk.client("c", 1)
    if reader == "d":
        desk.client("d", 1)
    unknown, key = (SessionId(reader.encode()), Counter(1)), (session.id, Counter(1))
    desk.inventory("a", unfinished=(key, unknown), connection=b"a2")
    runs(desk, key)
    desk.ack(session, 2)
    assert [reported(desk, KILL_S) for _ in range(3)] == [[], [], []]
    desk.answer("a", unknown)
    assert reported(desk) == []
    assert reported(desk, KILL_S) == [KILL_S]
