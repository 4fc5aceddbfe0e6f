"""What the broker decides when clients come back, and when it is new itself."""

from __future__ import annotations

import pytest

from hpcserve.core import actions as act
from hpcserve.core.exchange import Exchange
from hpcserve.core.ledger import State
from hpcserve.core.silence import LONGEST_S
from hpcserve.errors import (
    InvalidInput,
    OutcomeUnknown,
)
from hpcserve.types import Counter, SessionId
from tests.unit.core.exchange_desk import LIMITS, Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- a client that comes back ------------------------------------------------------------------------------


def test_a_result_that_was_lost_on_the_way_is_fetched(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.answer("a", key)
    assert desk.forwarded() == [1]
    desk.client("c", 1, connection="new")
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (key,))]
    assert session.sent_bytes == 0
    desk.answer("a", key)
    assert desk.took(act.Forward) == [act.Forward(b"new", ("answer", key))]


def test_a_result_that_comes_while_the_client_is_away_waits_for_it(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.exchange.client_gone(b"c", desk.now)
    desk.answer("a", key)
    assert desk.forwarded() == []
    assert session.held_bytes == 0
    desk.client("c", 1, connection="new")
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (key,))]


def test_an_error_that_was_lost_on_the_way_is_told_again(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.ask(session, 1, method="pay")
    desk.exchange.client_gone(b"c", desk.now)
    desk.route()
    assert desk.told() == []
    desk.client("c", 1, connection="new")
    assert isinstance(desk.error(), OutcomeUnknown)
    desk.ack(session, 2)
    assert session.entries == {}


def test_a_request_that_was_lost_on_the_way_is_asked_for(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.client("c", 1, connection="new")
    assert desk.took(act.Ask) == [act.Ask(b"new", (Counter(1),))]
    desk.ask(session, 1, method="pay")
    assert desk.given() == [("a", 1)], "the session was here all the time: it cannot have run"


def test_what_another_broker_took_counts_as_a_request_when_it_is_answered(desk: Desk) -> None:
    desk.route("a")
    session = desk.client("c", 1, 2)
    first, second = (session.id, Counter(1)), (session.id, Counter(2))
    desk.inventory("a", finished=(first,), unfinished=(second,))
    counts = desk.exchange.counts
    assert (counts.requests, counts.answered) == (0, 0)
    desk.answer("a", first)
    assert (counts.requests, counts.answered) == (1, 1)
    desk.answer("a", second)
    assert (counts.requests, counts.answered) == (2, 2)


def test_a_request_counts_once_however_often_its_body_and_its_answer_are_sent(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.answer("a", key)
    desk.route("b", crashed="a")
    desk.inventory("b")
    desk.client("c", 1, connection="new")
    desk.ask(session, 1)
    desk.answer("b", key)
    counts = desk.exchange.counts
    assert (counts.requests, counts.answered) == (1, 1)
    assert len(desk.forwarded()) == 2


def test_an_error_counts_once_and_so_does_its_request(desk: Desk) -> None:
    desk.route("a")
    session = desk.client("c", 1)
    desk.inventory("a")
    desk.ask(session, 1, method="pay")
    desk.client("c", 1, connection="new")
    assert {type(error) for _, error in desk.told()} == {OutcomeUnknown}
    assert (desk.exchange.counts.requests, desk.exchange.counts.failed) == (1, 1)


def test_what_resume_does_not_list_is_settled(desk: Desk) -> None:
    desk.serve("a", credit=9)
    session = desk.client()
    for id in (1, 2, 3):
        desk.ask(session, id)
    desk.client("c", 2, floor=2, connection="new")
    assert desk.states(session) == {1: State.ABANDONED, 2: State.RUNNING, 3: State.ABANDONED}
    assert session.is_settled(1)
    assert session.is_settled(3)
    assert not session.is_settled(2)


def test_an_old_resume_on_the_same_connection_settles_nothing_that_came_after_it(desk: Desk) -> None:
    desk.serve("a", credit=9)
    session = desk.client()
    desk.ask(session, 1)
    desk.ask(session, 2)
    desk.client("c", 1)
    assert desk.states(session) == {1: State.RUNNING, 2: State.RUNNING}
    desk.ack(session, 1, 2)
    desk.client("c", 1, 2)
    assert desk.states(session) == {1: State.RUNNING, 2: State.ABANDONED}, "what is settled stays settled"


# --- a new epoch -------------------------------------------------------------------------------------------


def test_nothing_is_refused_before_it_is_known_what_is_served(desk: Desk) -> None:
    session = desk.client()
    key = desk.ask(session, 1)
    assert desk.told() == []
    desk.now = 100.0
    assert desk.exchange.tick(desk.now) > desk.now
    assert not desk.exchange.recovered
    assert not desk.inventory("a"), "not on the roster yet"
    desk.route("a")
    assert not desk.exchange.recovered, "the replicas have their grace from now on"
    desk.inventory("a")
    assert desk.took(act.Ask) == [act.Ask(b"c", (key[1],))]
    desk.ask(session, 1, method="pay")
    assert desk.given() == [("a", 1)]


def test_recovery_waits_for_all_replicas(desk: Desk) -> None:
    desk.client("c", 1)
    desk.route("a", "b")
    desk.inventory("a")
    assert not desk.exchange.recovered
    assert desk.took(act.Ask) == []
    desk.inventory("b")
    assert desk.exchange.recovered
    assert desk.took(act.Ask) == [act.Ask(b"c", (Counter(1),))]


def test_recovery_does_not_wait_for_the_dead(desk: Desk) -> None:
    desk.client("c", 1)
    desk.route("a", "b")
    desk.inventory("a")
    desk.route("a")
    assert desk.exchange.recovered


def test_recovery_ends_when_the_grace_is_over(desk: Desk) -> None:
    desk.client("c", 1)
    desk.route("a", "b")
    desk.inventory("a")
    assert desk.exchange.tick(9.9) == pytest.approx(10.9)
    assert not desk.exchange.recovered
    desk.exchange.tick(10.0)
    assert desk.exchange.recovered
    assert desk.took(act.Ask) == [act.Ask(b"c", (Counter(1),))]


def test_new_requests_do_not_wait_for_the_recovery(desk: Desk) -> None:
    desk.route("a", "b")
    desk.inventory("a")
    desk.ask(desk.client(), 1)
    assert desk.given() == [("a", 1)]


@pytest.mark.parametrize("client_first", [True, False])
def test_what_a_replica_holds_is_not_sent_again(desk: Desk, *, client_first: bool) -> None:
    running, finished, settled = ((SessionId(b"c"), Counter(id)) for id in (1, 2, 3))
    desk.route("a")
    if client_first:
        desk.client("c", 1, 2)
    desk.inventory("a", unfinished=(running,), finished=(finished, settled))
    if not client_first:
        desk.client("c", 1, 2)
    (fetch,) = desk.took(act.Fetch)
    assert finished in fetch.keys
    assert settled not in fetch.keys
    desk.answer("a", finished)
    desk.answer("a", running)
    assert sorted(desk.forwarded()) == [1, 2]
    assert desk.took(act.Ask) == []
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (settled,))]


def test_a_late_replica_spares_the_second_run(desk: Desk) -> None:
    """Its inventory comes after the grace, while the client is being asked or its request is queued."""
    keys = [(SessionId(b"c"), Counter(id)) for id in (1, 2, 3)]
    desk.route("a")
    session = desk.client("c", 1, 2, 3)
    desk.now = 10.0
    desk.exchange.tick(desk.now)
    desk.ask(session, 2)
    desk.inventory("a", unfinished=tuple(keys[:2]), finished=(keys[2],))
    assert desk.given() == []
    assert desk.states(session) == {1: State.HELD, 2: State.RUNNING, 3: State.KEPT}
    desk.ask(session, 1)
    assert desk.states(session)[1] is State.HELD


def test_what_may_have_run_in_another_epoch_must_not_run_twice(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client("c", 1, 2)
    desk.ask(session, 1, method="pay")
    desk.ask(session, 2)
    ((id, error),) = desk.told()
    assert (id, type(error)) == (1, OutcomeUnknown)
    assert desk.given() == [("a", 2)]


def test_a_refused_request_cannot_forget_that_it_may_have_run(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client("c", 1)
    desk.ask(session, 1, method="pay", size_bytes=200)
    assert isinstance(desk.error(), InvalidInput)
    desk.client("c", 1, connection="new")
    assert isinstance(desk.error(), InvalidInput), "the answer stays the same"
    assert desk.took(act.Ask) == [act.Ask(b"c", (Counter(1),))]


def test_a_replica_that_no_client_comes_back_for_is_freed_in_the_end(desk: Desk) -> None:
    key = (SessionId(b"c"), Counter(1))
    desk.route("a")
    desk.inventory("a", finished=(key,))
    desk.exchange.tick(59.0)
    assert len(desk.exchange.sessions) == 1
    desk.exchange.tick(60.0)
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (key,))]
    assert desk.exchange.sessions == {}


def test_a_replica_that_lost_a_result_makes_the_request_run_again(desk: Desk) -> None:
    key = (SessionId(b"c"), Counter(1))
    desk.route("a")
    desk.inventory("a", finished=(key,))
    session = desk.client("c", 1)
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (key,))]
    desk.inventory("a", fence=0)
    assert desk.took(act.Ask) == [act.Ask(b"c", (key[1],))]
    desk.ask(session, 1)
    assert desk.given() == [("a", 1)]


@pytest.mark.parametrize("state", [State.HELD, State.KEPT, State.DONE])
def test_what_its_replica_lost_may_have_run(desk: Desk, state: State) -> None:
    key = (SessionId(b"c"), Counter(1))
    desk.route("a")
    desk.inventory("a", unfinished=(key,))
    session = desk.client("c", 1)
    if state is State.KEPT:
        desk.inventory("a", finished=(key,))
    elif state is State.DONE:
        desk.answer("a", key)
    assert desk.states(session) == {1: state}
    desk.inventory("a")
    desk.took(act.Ask)
    desk.client("c", 1, connection="new")
    assert desk.took(act.Ask) == [act.Ask(b"new", (key[1],))]
    desk.ask(session, 1, method="pay")
    assert isinstance(desk.error(), OutcomeUnknown)


def test_a_number_of_another_replica_does_not_hide_a_loss(desk: Desk) -> None:
    """What was the ninth at one replica may be lost at another one that was given nothing yet."""
    desk.serve("a", credit=9)
    session = desk.client()
    for id in range(1, 10):
        desk.ask(session, id)
    key = (session.id, Counter(9))
    desk.route("b")
    desk.inventory("b", unfinished=(key,), credit=0)
    assert desk.states(session)[9] is State.RUNNING
    desk.inventory("b", fence=0, credit=0)
    assert desk.states(session)[9] is State.QUEUED


def test_an_answer_that_nobody_can_place_leaves_nothing_behind(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.answer("a", desk.ask(session, 1), size_bytes=100)
    settled, stranger = (session.id, Counter(2)), (SessionId(b"stranger"), Counter(1))
    desk.answer("a", settled, size_bytes=50)  # there is no room for it, and no need
    desk.answer("a", stranger)
    assert desk.forwarded() == [1]
    assert desk.states(session) == {1: State.DONE}
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (settled,))]
    desk.exchange.tick(60.0)
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (stranger,))]
    assert list(desk.exchange.sessions) == [session.id]


def test_a_replica_off_the_roster_is_not_listened_to(desk: Desk) -> None:
    desk.serve("a")
    assert not desk.inventory("x")
    assert desk.exchange.replica_of(b"x") is None
    assert desk.exchange.replica_of(b"a") is desk.replica("a")
    desk.exchange.replica_gone(b"a", desk.now)
    assert desk.exchange.replica_of(b"a") is None
    session = desk.client()
    desk.ask(session, 1)
    assert desk.given() == []
    desk.inventory("a", connection=b"a2")
    assert desk.given() == [("a2", 1)]


def test_a_client_that_looks_seldom_for_a_new_broker_finds_what_its_replica_holds() -> None:
    """Though clients that were here are soon forgotten when they go."""
    desk = Desk(Exchange(LIMITS._replace(session_linger_s=2.0), 0.0))
    desk.serve("a")
    key, gone = (SessionId(b"c"), Counter(1)), (SessionId(b"d"), Counter(1))
    desk.inventory("a", finished=(key, gone))
    desk.client("d", 1)
    desk.exchange.client_gone(b"d", desk.now)
    desk.now = LONGEST_S + 5.0  # a look, and then to connect
    desk.exchange.tick(desk.now)
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (gone,))]
    desk.took(act.Fetch)
    desk.client("c", 1)
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (key,))]
