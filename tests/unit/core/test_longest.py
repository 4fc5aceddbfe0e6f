"""How long requests take, and what a replica is given that ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.longest import SPAN_ANSWERS, SPAN_S, SPANS, Longest, closes_at
from tests.unit.core.exchange_desk import NAME, Desk

MEMORY_S = SPANS * SPAN_S


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- what is remembered


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 400)), max_size=60))
def test_the_longest_of_ten_minutes_is_never_forgotten(took: list[tuple[float, float]]) -> None:
    longest, now, seen = Longest(), 0.0, []
    for answered, (pause_s, took_s) in enumerate(took):
        now += pause_s
        longest.look(now, answered * SPAN_ANSWERS)
        if took_s > longest.span_s:
            longest.took(took_s)
        seen.append((now, took_s))
        recent = [each for at, each in seen if now - at < MEMORY_S]
        assert longest.s >= max(recent)
        assert longest.s in [each for _, each in seen]


def test_what_is_long_ago_is_forgotten_when_enough_others_came() -> None:
    longest = Longest()
    longest.look(0.0, 0)
    longest.took(100.0)
    longest.took(1.0)
    for span in range(1, SPANS + 1):
        longest.look(span * SPAN_S, span * SPAN_ANSWERS)
        assert longest.s == 100.0
        longest.took(1.0)
    longest.look(10 * MEMORY_S, SPANS * SPAN_ANSWERS + SPAN_ANSWERS - 1)
    assert longest.s == 100.0
    longest.look(10 * MEMORY_S, (SPANS + 1) * SPAN_ANSWERS)
    assert longest.s == 1.0


# --- when a replica closes


@pytest.mark.parametrize(
    ("longest_s", "closes"),
    [(0.0, 1000.0), (10.0, 990.0), (450.0, 550.0), (5000.0, 550.0)],
    ids=["nothing measured", "short", "half of its time", "longer than a pilot"],
)
def test_when_it_closes(longest_s: float, closes: float) -> None:
    assert closes_at(1000.0, 100.0, longest_s) == closes


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.lists(st.floats(0, 1e6), min_size=2, max_size=5))
def test_the_longer_requests_take_the_sooner_it_closes(ends_at: float, since: float, took: list[float]) -> None:
    times = [closes_at(ends_at, since, each) for each in sorted(took)]
    assert all(earlier >= later for earlier, later in pairwise(times))
    assert all(ends_at >= each >= min(ends_at, since) for each in times)


# --- the broker


def teach(desk: Desk, took_s: float, *, id: int = 1) -> None:
    """One request took so long."""
    session = desk.client("teacher")
    key = desk.ask(session, id)
    ((name, _),) = desk.given()
    desk.now += took_s
    desk.answer(name, key)
    desk.ack(session, id + 1)


def test_nothing_is_given_that_would_not_be_finished(desk: Desk) -> None:
    desk.serve("r1")
    teach(desk, 10.0)
    assert desk.exchange.lane(NAME).longest.s == 10.0
    desk.route("r1", ends_at={"r1": 1010.0})
    session = desk.client()
    desk.now = 999.0
    assert desk.exchange.tick(desk.now) == 1000.0
    desk.ask(session, 1)
    assert desk.given() == [("r1", 1)]
    desk.now = 1000.0
    desk.exchange.tick(desk.now)
    desk.ask(session, 2)
    desk.ask(session, 3, priority=1)
    assert desk.given() == []
    desk.route("r1", "r2", ends_at={"r1": 1010.0})
    desk.inventory("r2")
    assert desk.given() == [("r2", 3), ("r2", 2)]


def test_before_anything_is_measured_it_gets_work_up_to_its_end(desk: Desk) -> None:
    desk.serve("r1")
    desk.route("r1", ends_at={"r1": 100.0})
    session = desk.client()
    desk.now = 99.9
    desk.exchange.tick(desk.now)
    desk.ask(session, 1)
    assert desk.given() == [("r1", 1)]
    desk.now = 100.0
    desk.exchange.tick(desk.now)
    desk.ask(session, 2)
    assert desk.given() == []


def test_a_longer_request_closes_it_at_once(desk: Desk) -> None:
    desk.serve("r1", "r2", credit=5)
    desk.route("r1", "r2", ends_at={"r1": 100.0})
    session = desk.client()
    first = desk.ask(session, 1)
    desk.now = 45.0
    ((name, _),) = desk.given()
    other = "r2" if name == "r1" else "r1"
    desk.ask(session, 2)
    assert desk.given() == [(other, 2)]
    desk.now = 60.0
    desk.answer(name, first, credit=5)
    for id in range(3, 7):
        desk.ask(session, id)
    assert {name for name, _ in desk.given()} == {"r2"}


def test_more_time_opens_it_again(desk: Desk) -> None:
    desk.serve("r1")
    teach(desk, 10.0)
    desk.route("r1", ends_at={"r1": 30.0})
    desk.now = 21.0
    desk.exchange.tick(desk.now)
    session = desk.client()
    desk.ask(session, 1)
    assert desk.given() == []
    desk.route("r1", ends_at={"r1": 1000.0})
    assert desk.given() == [("r1", 1)]


def test_it_opens_again_when_the_longest_is_forgotten(desk: Desk) -> None:
    desk.serve("r1", "r2")
    teach(desk, 400.0)
    desk.route("r1", ends_at={"r1": 4000.0})
    desk.now = 3700.0
    desk.exchange.tick(desk.now)
    session = desk.client()
    desk.ask(session, 1)
    assert desk.given() == []
    lane = desk.exchange.lane(NAME)
    for _ in range(SPANS + 1):
        desk.now += SPAN_S / SPANS / 2
        lane.answered += SPAN_ANSWERS
        lane.longest.look(desk.now + 10 * MEMORY_S * lane.answered, lane.answered)
    assert lane.longest.s == 0.0
    desk.exchange.tick(desk.now)
    assert desk.given() == [("r1", 1)]


def test_a_result_that_is_fetched_again_teaches_nothing(desk: Desk) -> None:
    desk.serve("r1")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.now = 2.0
    desk.answer("r1", key)
    desk.now = 50.0
    desk.client("c", 1, connection="again")
    desk.answer("r1", key)
    assert desk.exchange.lane(NAME).longest.s == 2.0


def test_what_an_earlier_broker_gave_out_teaches_nothing(desk: Desk) -> None:
    desk.route("r1")
    session = desk.client("c", 1)
    ((id, _),) = session.entries.items()
    desk.inventory("r1", unfinished=((session.id, id),))
    desk.now = 30.0
    desk.answer("r1", (session.id, id))
    assert desk.forwarded() == [1]
    assert desk.exchange.lane(NAME).longest.s == 0.0
