"""How a batch is divided among ranks, and what becomes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.shares import Failed, Outputs, Trouble, Unlike, Whole, shares, starts, verdict


def of(count: int, *, dtype: str = "float32", rest: tuple[int, ...] = (3,)) -> Outputs:
    return (("y", dtype, (count, *rest)),)


@pytest.mark.parametrize(
    ("samples", "ranks", "expected"),
    [
        (8, 4, (2, 2, 2, 2)),
        (10, 4, (3, 3, 2, 2)),
        (3, 4, (1, 1, 1, 0)),
        (1, 4, (1, 0, 0, 0)),
        (0, 4, (0, 0, 0, 0)),
        (5, 1, (5,)),
    ],
)
def test_shares(samples: int, ranks: int, expected: tuple[int, ...]) -> None:
    assert shares(samples, ranks) == expected


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_shares_are_all_there_is_and_as_even_as_can_be(samples: int, ranks: int) -> None:
    counts = shares(samples, ranks)
    assert len(counts) == ranks
    assert sum(counts) == samples
    assert max(counts) - min(counts) <= 1
    assert list(counts) == sorted(counts, reverse=True), "rank 0, which has the batch, computes if any does"
    assert [sum(counts[:rank]) for rank in range(ranks)] == list(starts(counts))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((of(2), of(2), of(1)), Whole((("y", "float32", (5, 3)),))),
        ((of(2), of(2), Trouble()), Failed(2)),
        ((of(2), Trouble(sample=1), of(1)), Failed(1, 3)),
        ((Trouble(), Trouble(sample=0), Trouble(sample=0)), Failed(1, 2)),
        ((Trouble(), Trouble(out_of_memory=True), Trouble(out_of_memory=True)), Failed(1)),
        ((Trouble(out_of_memory=True), of(2), Trouble(sample=0)), Failed(2, 4)),
        ((Trouble(sample=2), Trouble(), of(1)), Failed(0)),
        ((Trouble(), Trouble(sample=-1), of(1)), Failed(0)),
        ((of(2), of(2, rest=(4,)), of(1)), Unlike(0, 1)),
        ((of(2), of(2), of(1, dtype="float64")), Unlike(0, 2)),
    ],
)
def test_verdicts(answers: tuple[Outputs | Trouble, ...], expected: object) -> None:
    assert verdict((2, 2, 1), answers) == expected


def test_a_rank_without_a_share_has_no_say() -> None:
    assert verdict((1, 1, 0), (of(1), of(1), None)) == Whole((("y", "float32", (2, 3)),))


@given(st.integers(1, 50), st.integers(1, 8), st.data())
def test_a_named_sample_keeps_its_place(samples: int, ranks: int, data: st.DataObject) -> None:
    counts = shares(samples, ranks)
    place = data.draw(st.integers(0, samples - 1))
    answers: list[Outputs | Trouble | None] = [of(count) if count else None for count in counts]
    rank = max(rank for rank in range(ranks) if counts[rank] and starts(counts)[rank] <= place)
    answers[rank] = Trouble(sample=place - starts(counts)[rank])
    assert verdict(counts, answers) == Failed(rank, place)
