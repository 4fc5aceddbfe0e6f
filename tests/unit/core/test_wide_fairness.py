"""How slots are shared where replicas take several of them: one each first, then the fewest slots first."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.fairness import Wish, fair_shares
from hpcserve.types import DeploymentName


def wish(name: str, wanted: int, width: int = 1, promised: int = 0, held: int = 0, since: float = math.inf) -> Wish:
    return Wish(
        name=DeploymentName(name), wanted=wanted, width=width, promised=promised, held=held, waits_since_s=since
    )


@pytest.mark.parametrize(
    ("room", "wishes", "expected"),
    [
        pytest.param(16, [wish("a", 100), wish("w", 100, 4)], [8, 2], id="slots, not replicas, are shared evenly"),
        pytest.param(16, [wish("a", 100), wish("b", 100), wish("w", 9, 8)], [4, 4, 1], id="one is more than the share"),
        pytest.param(16, [wish("a", 100), wish("w", 1, 16, since=1.0)], [0, 1], id="who has waited longest has all"),
        pytest.param(16, [wish("a", 1, held=1), wish("w", 1, 16, since=1.0)], [1, 0], id="but for who has it already"),
        pytest.param(
            8, [wish("a", 1, held=1), wish("b", 1, since=2.0), wish("w", 1, 8, since=1.0)], [1, 0, 0], id="it is kept"
        ),
        pytest.param(
            8,
            [wish("a", 1, held=1), wish("b", 1, since=1.0), wish("w", 1, 8, since=2.0)],
            [1, 1, 0],
            id="not for later",
        ),
        pytest.param(8, [wish("a", 9), wish("w", 9, 3)], [5, 1], id="what does not suffice for another is not wasted"),
        pytest.param(4, [wish("a", 9, promised=2), wish("w", 9, 4, promised=1)], [2, 1], id="what was promised"),
    ],
)
def test_room_is_shared_in_slots(room: int, wishes: list[Wish], expected: list[int]) -> None:
    assert list(fair_shares(room, wishes).values()) == expected


@st.composite
def crowds(draw: st.DrawFn) -> list[Wish]:
    wanted = draw(st.lists(st.integers(0, 9), max_size=6))
    return [
        wish(
            f"d{n}",
            each,
            draw(st.sampled_from([1, 1, 2, 3, 4, 8])),
            draw(st.just(0) | st.integers(0, each)),
            draw(st.integers(0, 9)),
            draw(st.sampled_from([0.0, 5.0, math.inf])),
        )
        for n, each in enumerate(wanted)
    ]


ROOM = st.integers(0, 40)


@given(ROOM, crowds())
def test_no_more_than_the_room_is_given_and_no_less_than_the_promises(room: int, crowd: list[Wish]) -> None:
    shares = fair_shares(room, crowd)
    given_away = sum(shares[each.name] * each.width for each in crowd)
    assert given_away <= max(room, sum(each.promised * each.width for each in crowd))
    assert all(each.promised <= shares[each.name] <= each.wanted for each in crowd)


@given(ROOM, crowds())
def test_once_all_have_their_shares_these_stay(room: int, crowd: list[Wish]) -> None:
    shares = fair_shares(room, crowd)
    assert fair_shares(room, [replace(each, held=shares[each.name]) for each in crowd]) == shares
    assert fair_shares(room, crowd[::-1]) == shares, "in whatever order they stand"


@given(ROOM, crowds())
def test_nobody_has_another_replica_at_the_cost_of_one_who_has_fewer_slots(room: int, crowd: list[Wish]) -> None:
    shares = fair_shares(room, crowd)
    for poor in crowd:
        for rich in crowd:
            if shares[poor.name] < poor.wanted and shares[rich.name] > max(1, rich.promised):
                before = (shares[rich.name] - 1) * rich.width
                assert before <= shares[poor.name] * poor.width or poor.width > rich.width


@given(ROOM, crowds())
def test_who_has_waited_longest_is_not_overtaken(room: int, crowd: list[Wish]) -> None:
    shares = fair_shares(room, crowd)
    for first in crowd:
        for later in crowd:
            waits = first.wanted and not first.held and not shares[first.name]
            if waits and (first.waits_since_s, first.name) < (later.waits_since_s, later.name) and not later.held:
                assert shares[later.name] == later.promised
