"""Streams at the broker: what goes on to the client, what is held back, and how a stream is cut."""

from __future__ import annotations

import pytest

from hpcserve.core import actions as act
from hpcserve.core.ledger import State
from hpcserve.core.sessions import Session
from hpcserve.errors import OutcomeUnknown, PoisonRequest, StreamInterrupted
from hpcserve.types import Counter, RequestKey, SessionId
from tests.unit.core.exchange_desk import NAME, Desk


def items(desk: Desk, name: str, key: RequestKey, first: int, count: int = 1, *, size_bytes: int = 10) -> None:
    desk.exchange.items(
        desk.replica(name), key, first=first, count=count, body=("items", key), size_bytes=size_bytes, now=desk.now
    )


def more(desk: Desk, session: Session, id: int, received: int, *, again: bool = False) -> list[tuple[str, int, bool]]:
    """What replicas are told of it."""
    desk.exchange.more(session, Counter(id), received, again=again, now=desk.now)
    return [(each.connection.decode(), each.received, each.again) for each in desk.took(act.More)]


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.serve("a", "b")
    return made


@pytest.fixture
def single() -> Desk:
    made = Desk()
    made.serve("c")
    return made


def test_items_go_to_the_client_and_its_word_to_the_replica(desk: Desk) -> None:
    session = desk.client()
    key = desk.ask(session, 1)
    ((name, _),) = desk.given()
    items(desk, name, key, 0, 3)
    assert desk.forwarded() == [1]
    assert more(desk, session, 1, 2) == [(name, 2, False)]
    assert more(desk, session, 1, 2, again=True) == [(name, 2, True)]


def test_a_client_cannot_have_taken_what_did_not_go_to_it(single: Desk) -> None:
    session = single.client()
    key = single.ask(session, 1)
    single.given()
    items(single, "c", key, 0, 3)
    assert more(single, session, 1, 1 << 40) == [("c", 3, False)]


def test_a_client_that_asks_all_the_time_has_its_replica_send_again_what_has_arrived_only(single: Desk) -> None:
    session = single.client()
    key = single.ask(session, 1)
    single.given()
    assert [more(single, session, 1, 0, again=True)[0][2] for _ in range(9)] == [True] + [False] * 8
    items(single, "c", key, 0, 5)
    again = 0
    for number in range(1, 1000):
        single.now += 0.01
        ((_, _, asked),) = more(single, session, 1, number % 5, again=True)
        if asked:
            again += 1
        elif again and number % 100 == 0:
            items(single, "c", key, 0, 5)  # a slow link: only now does it arrive
    assert again == 10


def test_what_was_lost_with_the_replicas_connection_is_asked_for_at_once(single: Desk) -> None:
    session = single.client()
    key = single.ask(session, 1)
    single.given()
    items(single, "c", key, 0, 5)
    assert more(single, session, 1, 2, again=True) == [("c", 2, True)]
    assert more(single, session, 1, 2, again=True) == [("c", 2, False)]
    single.inventory("c", connection=b"c2", unfinished=(key,), fence=9, yielded=(5,))
    assert more(single, session, 1, 2, again=True) == [("c2", 2, True)]


def test_what_came_while_the_client_was_away_is_asked_for_at_once(single: Desk) -> None:
    session = single.client()
    key = single.ask(session, 1)
    single.given()
    single.exchange.client_gone(b"c", 0.0)
    items(single, "c", key, 0, 5)
    single.client("c", 1, connection="other")
    assert more(single, session, 1, 0, again=True) == [("c", 0, True)]
    assert single.forwarded() == []


def test_items_of_what_nobody_waits_for_go_nowhere(desk: Desk) -> None:
    session = desk.client()
    key = desk.ask(session, 1)
    ((name, _),) = desk.given()
    other = {"a": "b", "b": "a"}[name]
    items(desk, other, key, 0)
    desk.ack(session, 2)
    items(desk, name, key, 0)
    assert desk.forwarded() == []
    assert more(desk, session, 1, 1) == [(name, 1, False)]  # abandoned: it does no harm
    assert more(desk, session, 7, 1) == []


def test_what_has_no_room_is_held_until_the_client_asks(desk: Desk) -> None:
    session = desk.client()
    key = desk.ask(session, 1)
    ((name, _),) = desk.given()
    items(desk, name, key, 0, size_bytes=80)
    items(desk, name, key, 1, size_bytes=30)
    items(desk, name, key, 2, size_bytes=1)  # would fit, but must not overtake
    assert desk.forwarded() == [1]
    assert more(desk, session, 1, 1) == [(name, 1, True)]
    items(desk, name, key, 1, size_bytes=30)
    assert desk.forwarded() == [1]


def test_the_budgets_count_items_until_they_are_taken(desk: Desk) -> None:
    session = desk.client()
    key = desk.ask(session, 1, size_bytes=1)
    ((name, _),) = desk.given()
    items(desk, name, key, 0, 2, size_bytes=20)
    items(desk, name, key, 2, 1, size_bytes=10)
    assert (session.sent_bytes, desk.exchange.held_bytes) == (30, 31)
    more(desk, session, 1, 2)
    assert (session.sent_bytes, desk.exchange.held_bytes) == (10, 11)
    desk.answer(name, key, size_bytes=5)
    assert (session.sent_bytes, desk.exchange.held_bytes) == (15, 15)
    desk.ack(session, 2)
    assert (session.sent_bytes, session.held_bytes, desk.exchange.held_bytes) == (0, 0, 0)
    assert not desk.exchange.relays
    assert not desk.exchange.repeats


def test_a_client_that_asks_again_and_takes_nothing_gets_nothing_twice(single: Desk) -> None:
    session = single.client()
    key = single.ask(session, 1)
    single.given()
    for _ in range(100):
        items(single, "c", key, 0, 5, size_bytes=30)
        single.now += 0.1
        assert more(single, session, 1, 0, again=True) == [("c", 0, True)]
    assert single.forwarded() == [1]
    assert session.sent_bytes == 30
    single.client("c", 1)  # the same connection
    items(single, "c", key, 0, 5, size_bytes=30)
    assert single.forwarded() == []
    single.client("c", 1, connection="other")
    assert session.sent_bytes == 0
    items(single, "c", key, 0, 5, size_bytes=30)
    assert single.forwarded() == [1]


def test_items_do_not_starve_a_result(single: Desk) -> None:
    single.inventory("c", credit=9)
    session = single.client()
    stream, first, second, third = (single.ask(session, id) for id in range(1, 5))
    single.given()
    items(single, "c", stream, 0, size_bytes=90)
    single.answer("c", first, size_bytes=80, credit=9)
    assert single.forwarded() == [1, 2], "no other result is on its way: it need not wait for the items"
    single.answer("c", second, size_bytes=20, credit=9)
    single.answer("c", third, size_bytes=20, credit=9)
    assert single.forwarded() == []
    single.ack(session, 1, 2)
    assert single.took(act.Fetch) == [act.Fetch(b"c", (second, third))]
    single.answer("c", second, size_bytes=20, credit=9)
    single.answer("c", third, size_bytes=20, credit=9)
    assert single.forwarded() == [3], "the items are not taken yet"


def test_a_result_that_waits_comes_when_items_are_taken(single: Desk) -> None:
    single.inventory("c", credit=9)
    session = single.client()
    stream, first, second = (single.ask(session, id) for id in range(1, 4))
    single.given()
    items(single, "c", stream, 0, size_bytes=90)
    single.answer("c", first, size_bytes=10, credit=9)
    single.answer("c", second, size_bytes=10, credit=9)
    assert single.states(session)[3] is State.KEPT
    assert single.took(act.Fetch) == []
    more(single, session, 1, 1)
    assert single.took(act.Fetch) == [act.Fetch(b"c", (second,))]


def test_what_a_client_comes_back_for_waits_for_items_to_be_taken(single: Desk) -> None:
    single.inventory("c", credit=9)
    session = single.client()
    stream, first, second = (single.ask(session, id) for id in range(1, 4))
    single.given()
    items(single, "c", stream, 0, size_bytes=100)
    single.answer("c", first, size_bytes=10, credit=9)
    single.exchange.client_gone(b"c", 0.0)
    single.answer("c", second, size_bytes=10, credit=9)
    single.client("c", 1, 2, 3)
    fetched = {key for action in single.took(act.Fetch) for key in action.keys}
    more(single, session, 1, 1)
    fetched |= {key for action in single.took(act.Fetch) for key in action.keys}
    assert fetched == {first, second}


def test_a_stream_is_run_again_only_before_its_first_item(desk: Desk) -> None:
    session = desk.client()
    first, second = desk.ask(session, 1), desk.ask(session, 2)
    given = {id: name for name, id in desk.given()}
    items(desk, given[1], first, 0, 4)
    desk.route(crashed="a b")
    ((id, error),) = desk.told()
    assert (id, type(error)) == (1, StreamInterrupted)
    assert "after 4 items" in error.message
    assert desk.states(session) == {1: State.FAILED, 2: State.QUEUED}
    assert second not in desk.exchange.relays


def test_one_that_must_not_run_twice_says_so(desk: Desk) -> None:
    session = desk.client()
    key = desk.ask(session, 1, method="pay")
    ((name, _),) = desk.given()
    items(desk, name, key, 0)
    desk.route(crashed=name)
    assert isinstance(desk.error(), OutcomeUnknown)


def test_a_replica_that_has_forgotten_a_stream_interrupts_it(desk: Desk) -> None:
    session = desk.client()
    key = desk.ask(session, 1)
    ((name, _),) = desk.given()
    items(desk, name, key, 0)
    desk.inventory(name, fence=1)
    assert isinstance(desk.error(), StreamInterrupted)


def test_items_that_are_missing_after_the_end_of_a_dead_replica_are_asked_of_the_client(desk: Desk) -> None:
    session = desk.client()
    key = desk.ask(session, 1)
    ((name, _),) = desk.given()
    desk.answer(name, key)
    desk.route(*({"a", "b"} - {name}))
    assert desk.states(session) == {1: State.LEFT}
    more(desk, session, 1, 0, again=True)
    assert [action.ids for action in desk.took(act.Ask)] == [(1,)]


def test_suspects_that_have_begun_to_yield_hold_up_no_other(single: Desk) -> None:
    session = single.client()
    keys = {id: single.ask(session, id) for id in (1, 2)}
    assert [name for name, _ in single.given()] == ["c", "c"]
    single.route(crashed="c")
    single.serve("d", credit=8)
    ((_, first),) = single.given()  # alone, and the other waits
    items(single, "d", keys[first], 0)
    ((_, second),) = single.given()
    assert {first, second} == {1, 2}
    items(single, "d", keys[second], 0)
    single.ask(session, 3)
    assert single.given() == [("d", 3)]


@pytest.fixture
def streaming() -> Desk:
    """Four replicas, each with a stream that has begun."""
    made = Desk()
    made.serve("a", "b", "c", "d", credit=8)
    session = made.client("s")
    keys = {id: made.ask(session, id) for id in (1, 2, 3, 4)}
    for name, id in made.given():
        items(made, name, keys[id], 0)
    made.forwarded()
    return made


def lose(desk: Desk, name: str) -> None:
    """This replica crashes; none comes in its place."""
    desk.route(*(each for each in desk.exchange.replicas if each != name), crashed=name)


def test_a_poison_request_does_not_kill_every_replica_that_has_a_stream(streaming: Desk) -> None:
    session = streaming.client()
    streaming.ask(session, 9)
    deaths = 0
    while given := streaming.given():
        ((name, _),) = given
        lose(streaming, name)
        deaths += 1
    told = [(id, type(error)) for id, error in streaming.told()]
    assert deaths == 3, "the second one beside streams convicts it"
    assert (9, PoisonRequest) in told
    assert [error for _, error in told].count(StreamInterrupted) == 3
    assert len(streaming.exchange.replicas) == 1


def test_the_first_death_beside_streams_convicts_nobody(streaming: Desk) -> None:
    session = streaming.client()
    key = streaming.ask(session, 9)
    for _ in range(2):
        ((name, _),) = streaming.given()
        lose(streaming, name)
    ((name, _),) = streaming.given()
    streaming.answer(name, key)
    assert PoisonRequest not in [type(error) for _, error in streaming.told()]
    assert streaming.states(session) == {9: State.DONE}


def test_a_suspect_prefers_a_replica_without_streams(streaming: Desk) -> None:
    session = streaming.client()
    streaming.ask(session, 9)
    ((name, _),) = streaming.given()
    others = [each for each in streaming.exchange.replicas if each != name]
    streaming.route(*others, "e", name)
    streaming.inventory("e", credit=8)
    streaming.route(*others, "e", crashed=name)
    assert streaming.given() == [("e", 9)]


def test_a_suspect_does_not_wait_for_a_long_call_where_another_has_only_streams() -> None:
    desk = Desk()
    desk.serve("long", credit=8)
    session = desk.client()
    desk.ask(session, 1)
    desk.route("long", "streams", retiring="long")
    desk.inventory("streams", credit=8)
    for id in (2, 3, 4):
        key = desk.ask(session, id)
        items(desk, "streams", key, 0)
    desk.route("long", "streams", "crashing", retiring="long streams")
    desk.inventory("crashing", credit=8)
    desk.ask(session, 9)
    assert desk.given()[-1] == ("crashing", 9)
    desk.route("long", "streams", crashed="crashing")
    assert desk.given() == [("streams", 9)]
    desk.ask(session, 10)
    assert desk.given() == [("long", 10)], "what is behind the suspect goes on, too"


def test_a_call_behind_a_stream_is_not_overdue_by_itself(single: Desk) -> None:
    session = single.client()
    stream = single.ask(session, 1)
    single.ask(session, 2, remaining_ms=1000)
    assert [name for name, _ in single.given()] == ["c", "c"]
    items(single, "c", stream, 0)
    single.exchange.tick(100.0)
    assert single.took(act.ReportHung) == []  # the stream, which has no deadline, may be what runs


def hung(desk: Desk, now: float) -> list[float]:
    """How long what runs is overdue at each replica that is to be killed for it."""
    desk.now = now
    desk.exchange.tick(now)
    return [each.overdue_s for each in desk.took(act.ReportHung)]


def test_a_stream_that_its_client_has_given_up_is_not_what_runs(single: Desk) -> None:
    session, other = single.client(), single.client("d")
    stream = single.ask(session, 1, remaining_ms=3000)
    single.ask(other, 1, remaining_ms=60_000)
    items(single, "c", stream, 0)
    single.now = 3.0
    single.ack(session, 1, 1)
    assert single.states(session) == {1: State.ABANDONED}
    assert hung(single, 60.0) == [], "the replica lets go of it when it has ended the other"
    assert hung(single, 66.0) == [6.0], "that one hangs"


def test_of_a_stream_that_was_given_up_under_an_earlier_broker_the_same_is_known(desk: Desk) -> None:
    desk.client("c", 2)
    keys = (SessionId(b"c"), Counter(1)), (SessionId(b"c"), Counter(2))
    desk.inventory("a", unfinished=keys, remaining_ms=(3000, 60_000), yielded=(5, 0))
    assert hung(desk, 60.0) == []
    assert hung(desk, 66.0) == [6.0]


def test_of_a_stream_whose_client_is_away_the_same_is_known(desk: Desk) -> None:
    desk.now = 1.0
    desk.client("c", 2)
    keys = (SessionId(b"d"), Counter(1)), (SessionId(b"c"), Counter(2))
    desk.inventory("a", unfinished=keys, remaining_ms=(3000, 60_000), yielded=(5, 0))
    assert hung(desk, 60.0) == []
    assert hung(desk, 67.0) == [6.0]


def counted(desk: Desk) -> tuple[int, int]:
    """How many requests were answered, and how many did not run before their deadline."""
    lane = desk.exchange.lane(NAME)
    return lane.answered, lane.expired


def test_what_was_late_at_its_replica_did_not_run_and_is_no_answer(single: Desk) -> None:
    session = single.client()
    single.answer("c", single.ask(session, 1), late=True)
    assert counted(single) == (0, 1)
    single.answer("c", single.ask(session, 2))
    assert counted(single) == (1, 1)
    assert single.replica("c").answered == 2


@pytest.mark.parametrize("given_up", [False, True])
def test_a_stream_counts_once_and_with_its_first_item(single: Desk, *, given_up: bool) -> None:
    session = single.client()
    key = single.ask(session, 1)
    items(single, "c", key, 0)
    assert counted(single) == (1, 0), "its replica has done something, even if it crashes now"
    items(single, "c", key, 1)
    if given_up:
        single.ack(session, 2)
    single.answer("c", key, late=True)
    assert counted(single) == (1, 0), "it ran"
