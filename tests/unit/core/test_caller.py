"""What a client waits for, and what it has to acknowledge."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.caller import LONGEST_S, Caller
from hpcserve.types import Counter

FOREVER = float("inf")


def test_ids_count_from_one_and_are_waited_for() -> None:
    caller = Caller()
    assert (caller.floor, caller.outstanding, len(caller)) == (1, (), 0)
    assert [caller.start(name, FOREVER) for name in "abc"] == [1, 2, 3]
    assert caller.outstanding == (1, 2, 3)
    assert caller.get(Counter(2)) == "b"
    assert caller.floor == 1


def test_a_request_is_settled_once() -> None:
    caller = Caller()
    id = caller.start("call", FOREVER)
    assert caller.settle(id) == "call"
    assert caller.settle(id) is None
    assert caller.get(id) is None
    assert caller.floor == 2
    assert caller.take_acks() == (2, ())
    assert not caller.owes_ack


def test_acks_above_the_floor_are_named() -> None:
    caller = Caller()
    ids = [caller.start(number, FOREVER) for number in range(4)]
    caller.settle(ids[1])
    caller.settle(ids[3])
    assert caller.owes_ack
    assert caller.take_acks() == (1, (2, 4))
    assert not caller.owes_ack
    assert caller.take_acks() == (1, ())
    caller.settle(ids[0])
    assert caller.owes_ack
    assert caller.take_acks() == (3, ())


def test_deadlines() -> None:
    caller = Caller()
    assert caller.next_deadline() == FOREVER
    late, soon, never = caller.start("late", 9.0), caller.start("soon", 5.0), caller.start("never", FOREVER)
    assert caller.next_deadline() == 5.0
    assert caller.expired(4.9) == []
    assert caller.expired(5.0) == [soon]
    assert caller.expired(100.0) == [late, soon]
    assert never in caller.outstanding


@given(st.lists(st.one_of(st.just("start"), st.just("tell"), st.integers(1, 30))))
def test_floor_and_acks_say_exactly_what_is_settled(steps: list[str | int]) -> None:
    """A broker that hears every acknowledgement knows as much as the client."""
    caller, started, settled, heard, floor = Caller(), 0, set[int](), set[int](), 1
    for step in steps:
        if step == "start":
            started += 1
            assert caller.start("call", FOREVER) == started
        elif step == "tell":
            floor, acks = caller.take_acks()
            heard |= {*range(1, floor), *acks}
            assert all(id > floor for id in acks)
            assert heard == settled
        elif isinstance(step, int) and step <= started:
            assert (caller.settle(Counter(step)) is not None) == (step not in settled)
            settled.add(step)
        assert set(caller.outstanding) == set(range(1, started + 1)) - settled


def test_a_refused_request_is_due_again_after_its_time_and_up_to_twice_that() -> None:
    caller = Caller()
    soon, late, gone = (caller.start(name, FOREVER) for name in ("soon", "late", "gone"))
    assert caller.refused(soon, 0.1, 0.0, now=10.0)
    assert caller.refused(late, 0.1, 1.0, now=10.0)
    assert caller.refused(gone, 0.1, 0.5, now=10.0)
    caller.settle(gone)
    assert caller.due(10.09) == []
    assert caller.due(10.1) == [soon]
    assert caller.due(10.19) == []
    assert caller.due(10.2) == [late]
    assert caller.due(99.0) == []
    assert caller.outstanding == (soon, late)


def test_a_request_that_has_no_time_for_another_try_is_not_sent_again() -> None:
    caller = Caller()
    id = caller.start("call", 10.25)
    assert not caller.refused(id, 0.125, 0.0, now=10.01)
    assert caller.refused(id, 0.125, 0.0, now=10.0)
    assert not caller.refused(Counter(99), 0.125, 0.0, now=10.0)


def test_each_refusal_doubles_how_much_later_it_may_be_up_to_a_bound() -> None:
    caller, now, spans = Caller(), 0.0, []
    id = caller.start("call", FOREVER)
    for _ in range(2000):
        assert caller.refused(id, 0.5, 1.0, now)
        spans.append(caller.due_at - now)
        now = caller.due_at
        assert caller.due(now) == [id]
    assert spans[:5] == [1.0, 1.5, 2.5, 4.5, 5.5]
    assert max(spans) == 0.5 + LONGEST_S
    assert caller.refused(id, 60.0, 1.0, now)
    assert caller.due_at - now == 120.0


def test_it_never_waits_so_long_that_no_time_is_left() -> None:
    caller = Caller()
    id = caller.start("call", 100.0)
    now = 0.0
    while caller.refused(id, 1.0, 1.0, now):
        assert now + 1.0 <= caller.due_at <= 99.0
        now = caller.due_at
        caller.due(now)
    assert now > 98.0


def test_the_first_that_is_due_is_known() -> None:
    caller = Caller()
    assert caller.due_at == FOREVER
    late, soon = caller.start("late", FOREVER), caller.start("soon", FOREVER)
    caller.refused(late, 0.5, 0.0, now=0.0)
    assert caller.due_at == 0.5
    caller.refused(soon, 0.25, 0.0, now=0.0)
    assert caller.due_at == 0.25
    caller.due(0.25)
    assert caller.due_at == 0.5
    caller.due(0.5)
    assert caller.due_at == FOREVER


def test_a_request_that_the_broker_asked_for_and_refused_meanwhile_is_sent_once() -> None:
    caller = Caller()
    id = caller.start("call", FOREVER)
    caller.refused(id, 0.5, 0.0, now=0.0)
    caller.refused(id, 0.5, 0.0, now=0.25)
    assert caller.due(0.5) == []
    assert caller.due(0.75) == [id]


def test_nothing_is_remembered_of_what_is_settled() -> None:
    caller = Caller()
    for _ in range(100):
        id = caller.start("call", FOREVER)
        caller.refused(id, 0.5, 0.5, now=0.0)
        caller.settle(id)
    assert not caller._refusals
    assert caller.due(1.0) == []
    assert not caller._later
