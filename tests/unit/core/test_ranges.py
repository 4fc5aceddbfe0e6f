"""A set of numbers as ranges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.ranges import Ranges

STEPS = st.lists(st.tuples(st.sampled_from(["add", "add", "add", "drop_below"]), st.integers(0, 24)), max_size=60)


def ranges_of(numbers: set[int]) -> int:
    return sum(number - 1 not in numbers for number in numbers)


@given(STEPS)
def test_it_holds_what_a_set_would_hold(steps: list[tuple[str, int]]) -> None:
    ranges, model = Ranges(), set[int]()
    for step, number in steps:
        if step == "add":
            ranges.add(number)
            model.add(number)
        else:
            ranges.drop_below(number)
            model = {each for each in model if each >= number}
        assert {each for each in range(-1, 26) if each in ranges} == model
        assert len(ranges) == ranges_of(model)


@given(held=st.sets(st.integers(0, 150)), more=st.sets(st.integers(0, 150)), ascending=st.booleans())
def test_many_at_once_are_as_one_by_one(*, held: set[int], more: set[int], ascending: bool) -> None:
    ranges = Ranges()
    ranges.update(held)
    ranges.update(sorted(more, reverse=not ascending))
    assert {each for each in range(-1, 152) if each in ranges} == held | more
    assert len(ranges) == ranges_of(held | more)


def test_neighbours_cost_nothing() -> None:
    ranges = Ranges()
    for number in range(10_000):
        ranges.add(number)
    assert len(ranges) == 1
