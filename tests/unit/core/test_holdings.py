"""What a replica holds, takes and keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.holdings import Holdings
from hpcserve.types import Counter, Epoch, RequestKey, SessionId

E1, E2 = Epoch(1), Epoch(2)


def key(number: int) -> RequestKey:
    return SessionId(bytes(16)), Counter(number)


@pytest.fixture
def held() -> Holdings:
    return Holdings(outbox_bytes=100)


def test_work_is_taken_once(held: Holdings) -> None:
    assert held.take(E1, 1, key(1))
    assert not held.take(E1, 1, key(1))  # the same message twice
    assert not held.take(E1, 2, key(1))  # the same request under a new number
    assert held.unfinished == (key(1),)


def test_work_that_was_overtaken_is_refused(held: Holdings) -> None:
    assert held.take(E1, 5, key(5))
    assert not held.take(E1, 4, key(4))
    assert held.take(E2, 1, key(6))
    assert not held.take(E1, 9, key(9))


def test_a_census_fences(held: Holdings) -> None:
    held.census(E1, 3)
    assert not held.take(E1, 3, key(3))
    assert held.take(E1, 4, key(4))
    held.census(E1, 2)
    assert held.fence == 4
    held.census(E2, 7)
    assert not held.take(E2, 7, key(7))
    held.census(E1, 99)
    assert (held.epoch, held.fence) == (E2, 7)


def test_a_result_is_kept_until_it_is_released(held: Holdings) -> None:
    held.take(E1, 1, key(1))
    held.finish(key(1), "answer", 40)
    assert (held.finished, held.unfinished, held.kept_bytes) == ((key(1),), (), 40)
    assert held.result(key(1)) == "answer"
    assert not held.take(E1, 2, key(1)), "it is held already"
    held.release(key(1))
    assert (held.result(key(1)), held.finished, held.kept_bytes) == (None, (), 0)
    held.release(key(1))
    assert held.kept_bytes == 0


def test_the_outbox_is_full_at_its_limit(held: Holdings) -> None:
    held.take(E1, 1, key(1))
    held.finish(key(1), "answer", 99)
    assert not held.is_full
    held.take(E1, 2, key(2))
    held.finish(key(2), "answer", 1)
    assert held.is_full
    held.release(key(2))
    assert not held.is_full


def test_what_is_released_before_it_ran_is_not_wanted(held: Holdings) -> None:
    held.take(E1, 1, key(1))
    assert held.is_wanted(key(1))
    held.release(key(1))
    assert not held.is_wanted(key(1))
    assert held.unfinished == (key(1),), "it is held until it is dropped"
    held.drop(key(1))
    assert not held.want(key(1)), "nothing of it is left"


@pytest.mark.parametrize("how", ["given again", "fetched"])
def test_what_was_released_can_be_wanted_again(held: Holdings, how: str) -> None:
    held.take(E1, 1, key(1))
    held.release(key(1))
    if how == "fetched":
        assert held.want(key(1))
    else:
        assert not held.take(E1, 2, key(1)), "it stands in the inbox already"
    assert held.is_wanted(key(1))


def test_wanting_tells_whether_it_is_held(held: Holdings) -> None:
    assert not held.want(key(1))
    held.take(E1, 1, key(1))
    assert held.want(key(1))
    held.finish(key(1), "answer", 1)
    assert held.want(key(1))


@given(st.lists(st.tuples(st.sampled_from(["take", "finish", "release", "drop", "census"]), st.integers(1, 8))))
def test_the_holdings_are_three_disjoint_sets(steps: list[tuple[str, int]]) -> None:
    held, kept, begun = Holdings(100), dict[RequestKey, int](), dict[RequestKey, bool]()
    highest = 0
    for what, number in steps:
        if what == "take":
            taken = held.take(E1, number, key(number))
            assert taken == (number > highest and key(number) not in kept and key(number) not in begun)
            if number > highest and key(number) not in kept:
                begun[key(number)] = True
            highest = max(highest, number)
        elif what == "finish" and key(number) in begun:
            held.finish(key(number), number, number)
            del begun[key(number)]
            kept[key(number)] = number
        elif what == "release":
            held.release(key(number))
            if kept.pop(key(number), None) is None and key(number) in begun:
                begun[key(number)] = False
        elif what == "drop" and begun.get(key(number)) is False:
            held.drop(key(number))
            del begun[key(number)]
        elif what == "census":
            held.census(E1, number)
            highest = max(highest, number)
        assert set(held.unfinished) == set(begun)
        assert {each for each in held.unfinished if held.is_wanted(each)} == {each for each in begun if begun[each]}
        assert set(held.finished) == set(kept)
        assert held.kept_bytes == sum(kept.values())
        assert held.fence == highest
