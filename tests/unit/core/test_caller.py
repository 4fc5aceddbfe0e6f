"""What a client waits for, and what it has to acknowledge."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.caller import Caller
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


def test_a_request_whose_deadline_is_over_by_then_is_not_sent_again() -> None:
    caller = Caller()
    id = caller.start("call", 10.2)
    assert not caller.refused(id, 0.1, 0.1, now=10.0)
    assert caller.refused(id, 0.1, 0.0, now=10.0)
    assert not caller.refused(Counter(99), 0.1, 0.0, now=10.0)
