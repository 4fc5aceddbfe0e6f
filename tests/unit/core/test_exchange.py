"""The broker's decisions on a good day, and whom it refuses."""

from __future__ import annotations

import pytest

from hpcserve.core import actions as act
from hpcserve.core import dispatch, exchange
from hpcserve.core.exchange import Exchange
from hpcserve.core.ledger import State
from hpcserve.core.replicas import RESERVE
from hpcserve.errors import (
    DeadlineExceeded,
    DeploymentFailed,
    InvalidInput,
    Overloaded,
    ProtocolError,
    UnknownEndpoint,
    UnknownMethod,
)
from hpcserve.types import Counter
from tests.unit.core.exchange_desk import LIMITS, Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- a good day --------------------------------------------------------------------------------------------


def test_a_request_goes_to_a_replica_and_its_result_to_the_client(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1, size_bytes=7, remaining_ms=2000)
    (give,) = desk.took(act.Give)
    assert (give.connection, give.seq, give.remaining_ms, give.entry.body) == (b"a", 1, 2000, "body")
    assert desk.exchange.held_bytes == 7
    desk.answer("a", key, size_bytes=9)
    assert desk.took(act.Forward) == [act.Forward(b"c", ("answer", key))]
    assert (session.held_bytes, session.sent_bytes) == (9, 9)
    desk.ack(session, 2)
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (key,))]
    assert (session.entries, session.held_bytes, session.sent_bytes, desk.exchange.held_bytes) == ({}, 0, 0, 0)
    assert desk.exchange.counts.requests == desk.exchange.counts.answered == 1


def test_releases_travel_with_the_next_work(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.answer("a", key)
    desk.ack(session, 2)
    desk.took(act.Give)
    desk.ask(session, 2)
    (give,) = desk.took(act.Give)
    assert give.releases == (key,)
    desk.exchange.flush()
    assert desk.took(act.Release) == []


def test_a_result_that_comes_twice_is_delivered_once(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.answer("a", key)
    desk.answer("a", key)
    assert desk.forwarded() == [1]


def test_a_request_that_comes_twice_runs_once(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.ask(session, 1)
    desk.answer("a", key)
    desk.ask(session, 1)
    desk.ack(session, 1, 1)
    desk.ask(session, 1)  # settled above the floor
    desk.ack(session, 2)
    desk.ask(session, 1)  # settled below it
    assert desk.given() == [("a", 1)]
    assert session.entries == {}


def test_work_goes_to_the_least_loaded_and_waits_for_credit(desk: Desk) -> None:
    desk.serve("a", "b")
    session = desk.client()
    for id in range(1, 7):
        desk.ask(session, id)
    assert desk.given() == [("a", 1), ("b", 2), ("a", 3), ("b", 4)]
    assert desk.exchange.queued == 2
    desk.answer("b", (session.id, Counter(2)))
    assert desk.given() == [("b", 5)]
    desk.exchange.credit(desk.replica("a"), (3, 1000), desk.now)
    assert desk.given() == [("a", 6)]


def test_priority_then_deadline_then_arrival(desk: Desk) -> None:
    desk.serve("a", credit=1)
    session = desk.client()
    desk.ask(session, 1)
    desk.ask(session, 2, priority=-1)
    desk.ask(session, 3, priority=-1, remaining_ms=9000)
    desk.ask(session, 4, priority=-1, remaining_ms=8000)
    desk.ask(session, 5)
    desk.ask(session, 6, priority=-1)
    order = []
    for _ in range(6):
        ((_, id),) = desk.given()
        order.append(id)
        desk.answer("a", (session.id, Counter(id)), size_bytes=1, credit=1)
    assert order == [1, 5, 4, 3, 2, 6]


def test_an_urgent_request_is_sent_past_those_that_a_replica_holds(desk: Desk) -> None:
    desk.serve("a", "b", credit=2)
    session = desk.client()
    for id in range(1, 7):
        desk.ask(session, id)
    assert len(desk.given()) == 4
    desk.ask(session, 7, priority=1)
    desk.ask(session, 8, priority=5)
    assert desk.given() == [("a", 7), ("b", 8)]
    desk.ask(session, 9)
    assert desk.given() == []
    for id in range(10, 10 + 2 * RESERVE):
        desk.ask(session, id, priority=1)
    assert len(desk.given()) == 2 * RESERVE - 2  # the reserve has an end
    desk.exchange.replica_gone(b"a", desk.now)
    desk.answer("b", (session.id, Counter(8)), size_bytes=1, credit=2)
    assert [replica for replica, _ in desk.given()] == ["b"]


# --- refusals ----------------------------------------------------------------------------------------------


def test_an_unknown_endpoint_is_refused_with_the_nearest_names(desk: Desk) -> None:
    desk.serve("a")
    desk.ask(desk.client(), 1, endpoint="ecko")
    error = desk.error()
    assert isinstance(error, UnknownEndpoint)
    assert "'ecko'" in error.message
    assert "did you mean 'echo'?" in error.message


def test_an_unknown_method_is_refused_with_the_nearest_names(desk: Desk) -> None:
    desk.serve("a")
    desk.ask(desk.client(), 1, method="rum")
    error = desk.error()
    assert isinstance(error, UnknownMethod)
    assert "did you mean 'run'?" in error.message


def test_what_is_not_taken_is_refused_and_what_is_known_already_stays(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.exchange.refuse(session, Counter(1), InvalidInput("no"), desk.now)
    assert isinstance(desk.error(), InvalidInput)
    assert session.entries == {}
    desk.ask(session, 2)
    desk.exchange.refuse(session, Counter(2), InvalidInput("no"), desk.now)
    assert desk.given() == [("a", 2)]
    assert desk.told() == []


def test_a_deployment_that_cannot_start_answers_with_its_error(desk: Desk) -> None:
    desk.route(error=DeploymentFailed("setup raised"))
    session = desk.client()
    desk.ask(session, 1)
    assert isinstance(desk.error(), DeploymentFailed)
    assert session.entries == {}


@pytest.mark.parametrize(
    ("who", "size_bytes", "limit"),
    [("session", 61, "session holds 40 of 100 bytes"), ("daemon", 30, "daemon holds 980 of 1000 bytes")],
)
def test_a_full_budget_refuses(desk: Desk, who: str, size_bytes: int, limit: str) -> None:
    desk.serve()
    session = desk.client()
    desk.ask(session, 1, size_bytes=40)
    if who == "daemon":
        for other in range(10):
            desk.ask(desk.client(f"other{other}"), 1, size_bytes=94)
    assert desk.told() == []
    desk.ask(session, 2, size_bytes=size_bytes)
    error = desk.error()
    assert isinstance(error, Overloaded)
    assert limit in error.message
    assert error.retry_after_s is not None
    assert 2 not in session.entries


def test_a_request_that_can_never_fit_is_not_asked_to_come_back(desk: Desk) -> None:
    desk.serve()
    desk.ask(desk.client(), 1, size_bytes=101)
    error = desk.error()
    assert isinstance(error, InvalidInput)
    assert "101 bytes" in error.message
    assert "at most 100 bytes" in error.message
    assert not error.retryable


def test_a_full_queue_refuses(desk: Desk) -> None:
    desk.exchange = Exchange(LIMITS._replace(max_queued=2), 0.0)
    desk.serve()
    session = desk.client()
    for id in (1, 2, 3):
        desk.ask(session, id)
    ((id, error),) = desk.told()
    assert (id, type(error)) == (3, Overloaded)
    assert desk.exchange.counts.refused == 1


def test_results_that_are_not_acknowledged_count_in_the_session_budget(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.answer("a", desk.ask(session, 1), size_bytes=95)
    desk.ask(session, 2, size_bytes=10)
    assert isinstance(desk.error(), Overloaded)
    desk.ack(session, 2)
    desk.ask(session, 3, size_bytes=10)
    assert desk.told() == []


def test_one_long_request_holds_up_no_number_of_short_ones(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    long = desk.ask(session, 1)
    for id in range(2, 5000):
        desk.answer("a", desk.ask(session, id))
        desk.ack(session, 1, id)
        desk.exchange.flush()
        desk.exchange.take()
    assert (len(session.entries), len(session.settled)) == (1, 1)
    desk.ask(session, 3)  # doubled on the way
    assert desk.took(act.Give) == []
    desk.answer("a", long)
    desk.ack(session, 5000)
    assert (len(session.entries), len(session.settled), session.floor) == (0, 0, 5000)


def test_acknowledgements_may_have_so_many_gaps(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_GAPS", 3)
    session = desk.client()
    desk.ack(session, 1, 3, 5, 7, 9)
    with pytest.raises(ProtocolError, match="gaps"):
        desk.ack(session, 1, 11)
    with pytest.raises(ProtocolError, match="gaps"):
        desk.exchange.owe_ack(session, 1, (Counter(11),))
    desk.ack(session, 10)


def test_a_session_has_so_many_unsettled_requests(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_UNSETTLED", 2)
    desk.serve("a", credit=9)
    session = desk.client()
    for id in (1, 2):
        desk.answer("a", desk.ask(session, id), credit=9)
    desk.ask(session, 3)
    assert isinstance(desk.error(), Overloaded)
    desk.ack(session, 3)
    desk.ask(session, 4)
    assert desk.given() == [("a", 1), ("a", 2), ("a", 4)]


def test_what_lies_below_the_floor_cannot_be_outstanding(desk: Desk) -> None:
    with pytest.raises(ProtocolError, match="floor"):
        desk.client("d", 3, floor=4)


def test_a_request_goes_out_before_the_acknowledgement_that_it_carries_is_settled(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.answer("a", key)
    desk.exchange.take()
    desk.exchange.owe_ack(session, 2, ())
    desk.ask(session, 2)
    (give,) = desk.exchange.take()
    assert isinstance(give, act.Give)
    assert (give.entry.id, give.releases, session.floor) == (2, (), 1)
    assert desk.exchange.take() == []
    assert session.floor == 2
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (key,))]


def test_the_room_that_an_acknowledgement_makes_is_there_for_the_request_that_carries_it(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.answer("a", desk.ask(session, 1), size_bytes=90)
    desk.exchange.take()
    desk.exchange.owe_ack(session, 2, ())
    desk.ask(session, 2, size_bytes=50)
    assert desk.given() == [("a", 2)]


def test_an_acknowledgement_that_repeats_itself_is_taken_once(desk: Desk) -> None:
    desk.serve("a", credit=3)
    session = desk.client()
    for id in (1, 2, 3):
        desk.answer("a", desk.ask(session, id))
    desk.ack(session, 3, 1, 1, 3, 3)
    assert session.entries == {}
    assert session.held_bytes == 0


# --- deadlines, cancelling ---------------------------------------------------------------------------------


def test_a_request_whose_deadline_passes_in_the_queue_is_told_and_never_runs(desk: Desk) -> None:
    desk.serve("a", credit=0)
    session = desk.client()
    desk.ask(session, 1, remaining_ms=3000)
    assert desk.exchange.tick(1.0) <= 3.0
    desk.now = 3.0
    desk.exchange.tick(desk.now)
    ((id, error),) = desk.told()
    assert (id, type(error)) == (1, DeadlineExceeded)
    desk.exchange.credit(desk.replica("a"), (2, 1000), desk.now)
    assert desk.given() == []
    assert (desk.exchange.queued, desk.exchange.held_bytes) == (0, 0)


@pytest.mark.parametrize("replicas", [(), ("a",)])
def test_who_waited_in_vain_is_told_if_there_was_no_replica(desk: Desk, replicas: tuple[str, ...]) -> None:
    desk.serve(*replicas, credit=0)
    desk.ask(desk.client(), 1, remaining_ms=3000)
    desk.now = 3.0
    desk.exchange.tick(desk.now)
    assert ("has no replica that takes work (hpcserve status)" in str(desk.error())) is (replicas == ())


def test_a_late_request_is_not_given_even_before_the_clock_is_looked_at(desk: Desk) -> None:
    desk.serve("a", credit=0)
    session = desk.client()
    desk.ask(session, 1, remaining_ms=3000)
    desk.now = 4.0
    desk.exchange.credit(desk.replica("a"), (2, 1000), desk.now)
    assert desk.given() == []
    assert isinstance(desk.error(), DeadlineExceeded)


def test_a_request_that_is_taken_back_leaves_the_queue(desk: Desk) -> None:
    desk.serve("a", credit=0)
    session = desk.client()
    desk.ask(session, 1)
    desk.ack(session, 1, 1)
    desk.exchange.credit(desk.replica("a"), (2, 1000), desk.now)
    assert desk.given() == []
    assert session.entries == {}


def test_a_request_that_is_taken_back_at_its_replica_is_released_there(desk: Desk) -> None:
    desk.serve("a", credit=1)
    session = desk.client()
    key = desk.ask(session, 1)
    desk.ask(session, 2)
    desk.ack(session, 1, 1)
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (key,))]
    assert desk.given() == [("a", 1)], "the replica has not let go yet"
    desk.exchange.dropped(desk.replica("a"), key, credit=(1, 1000), now=desk.now)
    assert desk.given() == [("a", 2)]
    assert 1 not in session.entries


def test_the_result_of_a_request_that_was_taken_back_is_released(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.ack(session, 1, 1)
    desk.exchange.flush()
    desk.took(act.Release)
    desk.answer("a", key)
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (key,))]
    assert desk.forwarded() == []
    assert session.entries == {}


def test_an_old_word_that_a_request_was_dropped_is_checked(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.exchange.dropped(desk.replica("a"), key, credit=(2, 1000), now=desk.now)
    assert desk.took(act.Census) == [act.Census(b"a", 1)]
    assert desk.states(session) == {1: State.RUNNING}
    desk.inventory("a", unfinished=(key,), fence=1)
    assert desk.states(session) == {1: State.RUNNING}
    desk.inventory("a", fence=1)
    assert desk.given() == [("a", 1), ("a", 1)], "it said so itself: it does not hold it"


# --- what the client cannot take ---------------------------------------------------------------------------


def test_results_are_parked_for_a_client_that_does_not_acknowledge(desk: Desk) -> None:
    desk.serve("a", credit=9)
    session = desk.client()
    keys = [desk.ask(session, id) for id in range(1, 6)]
    for key in keys:
        desk.answer("a", key, size_bytes=40, credit=9)
    assert desk.forwarded() == [1, 2]
    assert session.sent_bytes == 80
    assert [id for id, state in desk.states(session).items() if state is State.KEPT] == [3, 4, 5]
    desk.ack(session, 2)
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (keys[2],))], "no more than was acknowledged"
    desk.answer("a", keys[2], size_bytes=40)
    assert desk.forwarded() == [3]
    desk.ack(session, 4)
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (keys[3], keys[4]))]
    for key in keys[3:]:
        desk.answer("a", key, size_bytes=40)
    assert desk.forwarded() == [4, 5]
    desk.ack(session, 6)
    assert (session.held_bytes, session.sent_bytes, len(session.parked)) == (0, 0, 0)


def test_a_result_larger_than_the_budget_goes_out_alone(desk: Desk) -> None:
    desk.serve("a", credit=9)
    session = desk.client()
    small, large = desk.ask(session, 1), desk.ask(session, 2)
    desk.answer("a", small, size_bytes=1)
    desk.answer("a", large, size_bytes=500)
    assert desk.forwarded() == [1]
    desk.ack(session, 2)
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (large,))]
    desk.answer("a", large, size_bytes=500)
    assert desk.forwarded() == [2]


def test_a_parked_result_that_nobody_wants_any_more_is_released(desk: Desk) -> None:
    desk.serve("a", credit=9)
    session = desk.client()
    keys = [desk.ask(session, id) for id in (1, 2)]
    for key in keys:
        desk.answer("a", key, size_bytes=60, credit=9)
    desk.ack(session, 1, 2)
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (keys[1],))]
    desk.ack(session, 3)
    assert desk.took(act.Fetch) == []
