"""How room for replicas is shared: what was promised, then one after the other from below, and who keeps the last."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.fairness import Wish, fair_shares
from hpcserve.types import DeploymentName


def wishes(*wanted: int) -> list[Wish]:
    return [Wish(name=DeploymentName(f"d{n}"), wanted=each) for n, each in enumerate(wanted)]


@pytest.mark.parametrize(
    ("room", "wanted", "expected"),
    [
        (16, [], []),
        (0, [3, 0], [0, 0]),
        (16, [3, 0, 9], [3, 0, 9]),  # there is room for all
        (16, [16, 1], [15, 1]),
        (16, [100, 100], [8, 8]),
        (16, [2, 100, 100], [2, 7, 7]),
        (16, [1, 5, 100, 7], [1, 5, 5, 5]),
        (17, [1, 5, 100, 7], [1, 5, 6, 5]),
        (2, [1, 1, 1, 1], [1, 1, 0, 0]),
        (3, [9, 0, 9, 9, 9], [1, 0, 1, 1, 0]),
    ],
)
def test_room_is_filled_from_below(room: int, wanted: list[int], expected: list[int]) -> None:
    assert list(fair_shares(room, wishes(*wanted)).values()) == expected


@pytest.mark.parametrize(
    ("room", "wanted", "promised", "expected"),
    [
        (16, [10, 10], [10, 0], [10, 6]),  # a fixed number
        (16, [10, 10], [2, 0], [8, 8]),  # a minimum that is no more than the share
        (16, [20, 20, 20], [9, 0, 0], [9, 4, 3]),
        (16, [16, 5], [16, 0], [16, 0]),
        (4, [9, 3, 5], [9, 1, 0], [9, 1, 0]),  # more was promised than there is
    ],
)
def test_what_was_promised_comes_first(room: int, wanted: list[int], promised: list[int], expected: list[int]) -> None:
    told = [replace(wish, promised=each) for wish, each in zip(wishes(*wanted), promised, strict=True)]
    assert list(fair_shares(room, told).values()) == expected


def test_of_equals_those_who_have_it_keep_it() -> None:
    first, second, third = wishes(9, 9, 9)
    assert list(fair_shares(7, [first, second, replace(third, held=3)]).values()) == [2, 2, 3]
    assert list(fair_shares(7, [first, second, replace(third, held=2)]).values()) == [3, 2, 2]


def test_those_who_have_waited_longest_are_the_first_of_those_who_have_none() -> None:
    had, late, early = wishes(1, 1, 1)
    late, early = replace(late, waits_since_s=20.0), replace(early, waits_since_s=10.0)
    assert list(fair_shares(1, [replace(had, held=1), late, early]).values()) == [1, 0, 0]
    assert list(fair_shares(1, [replace(had, wanted=0, held=1), late, early]).values()) == [0, 0, 1]
    assert list(fair_shares(2, [had, late, early]).values()) == [0, 1, 1]


@st.composite
def crowds(draw: st.DrawFn) -> list[Wish]:
    wanted = draw(st.lists(st.integers(0, 12), max_size=8))
    return [
        Wish(
            name=DeploymentName(f"d{n}"),
            wanted=each,
            promised=draw(st.just(0) | st.integers(0, each)),
            held=draw(st.integers(0, 12)),
            waits_since_s=draw(st.sampled_from([0.0, 5.0, math.inf])),
        )
        for n, each in enumerate(wanted)
    ]


ROOM = st.integers(0, 40)


@given(ROOM, crowds())
def test_all_room_is_given_and_no_more(room: int, crowd: list[Wish]) -> None:
    shares = fair_shares(room, crowd)
    wanted, promised = sum(each.wanted for each in crowd), sum(each.promised for each in crowd)
    assert sum(shares.values()) == max(promised, min(room, wanted))
    assert all(each.promised <= shares[each.name] <= each.wanted for each in crowd)


@given(ROOM, crowds())
def test_nobody_has_more_at_the_cost_of_one_who_has_less(room: int, crowd: list[Wish]) -> None:
    """The definition of max-min fairness, in whole replicas."""
    shares = fair_shares(room, crowd)
    for poor in crowd:
        for rich in crowd:
            if shares[poor.name] < poor.wanted and shares[rich.name] > rich.promised:
                assert shares[rich.name] <= shares[poor.name] + 1


@given(ROOM, crowds())
def test_none_that_asks_has_nothing_while_another_has_two(room: int, crowd: list[Wish]) -> None:
    shares = fair_shares(room, crowd)
    if any(each.wanted and not shares[each.name] for each in crowd):
        assert all(shares[each.name] <= max(1, each.promised) for each in crowd)


@given(ROOM, crowds(), st.integers(0, 7), st.integers(1, 5))
def test_who_wants_more_gets_no_less_and_others_no_more(room: int, crowd: list[Wish], which: int, more: int) -> None:
    before = fair_shares(room, crowd)
    if which < len(crowd):
        greedy = replace(crowd[which], wanted=crowd[which].wanted + more)
        after = fair_shares(room, [*crowd[:which], greedy, *crowd[which + 1 :]])
        assert after[greedy.name] >= before[greedy.name]
        assert all(after[each.name] <= before[each.name] for each in crowd if each.name != greedy.name)


@given(ROOM, crowds())
def test_more_room_is_less_for_nobody(room: int, crowd: list[Wish]) -> None:
    before, after = fair_shares(room, crowd), fair_shares(room + 1, crowd)
    assert all(after[name] >= before[name] for name in before)


@given(ROOM, crowds())
def test_once_all_have_their_shares_these_stay(room: int, crowd: list[Wish]) -> None:
    shares = fair_shares(room, crowd)
    assert fair_shares(room, [replace(each, held=shares[each.name]) for each in crowd]) == shares
    fewer = [replace(each, held=min(each.held, shares[each.name])) for each in crowd]
    assert fair_shares(room, fewer) == shares, "while they come and go, too"
    assert fair_shares(room, crowd[::-1]) == shares, "in whatever order they stand"
