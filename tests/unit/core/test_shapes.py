"""Which shape a pilot gets: no more than it needs, and another one only where that gives much more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.shapes import BETTER, HORIZON_S, Bounds, Shape, best, fitted, others

FULL = Shape(8, 7200.0)
BOUNDS = Bounds(full=FULL, min_nodes=1, min_walltime_s=600.0, slots=4)
FIXED = Bounds(full=FULL, min_nodes=8, min_walltime_s=7200.0, slots=4)


@pytest.mark.parametrize(("lacking", "nodes"), [(1, 1), (4, 1), (5, 2), (32, 8), (100, 8)])
def test_a_pilot_asks_for_no_more_nodes_than_its_replicas_need(lacking: int, nodes: int) -> None:
    assert fitted(BOUNDS, lacking) == Shape(nodes, FULL.walltime_s)
    assert fitted(FIXED, lacking) == FULL


def test_at_most_four_others_are_asked_about() -> None:
    assert others(BOUNDS, FULL) == (Shape(8, 1800.0), Shape(4, 1800.0), Shape(4, 600.0), Shape(1, 600.0))
    assert others(BOUNDS, Shape(1, 7200.0)) == (Shape(1, 1800.0), Shape(1, 600.0))
    assert others(FIXED, FULL) == ()


def test_what_starts_much_sooner_is_taken() -> None:
    starts = {FULL: 3 * 3600.0, Shape(8, 1800.0): 3600.0, Shape(4, 1800.0): 300.0, Shape(4, 600.0): 0.0}
    assert best(BOUNDS, FULL, starts, lacking=32) == Shape(4, 1800.0)


def test_what_starts_a_little_sooner_is_not() -> None:
    starts = {FULL: 900.0, Shape(8, 1800.0): 0.0, Shape(1, 600.0): 0.0}
    assert best(BOUNDS, FULL, starts, lacking=32) == FULL


def test_slots_that_nobody_needs_are_worth_nothing() -> None:
    starts = {FULL: 2 * 3600.0, Shape(8, 1800.0): 1800.0, Shape(1, 600.0): 0.0}
    assert best(BOUNDS, FULL, starts, lacking=32) == Shape(8, 1800.0)
    starts[Shape(8, 1800.0)] = 3300.0
    assert best(BOUNDS, FULL, starts, lacking=2) == Shape(1, 600.0)


def test_without_a_guess_for_the_full_shape_it_is_taken() -> None:
    assert best(BOUNDS, FULL, {FULL: None, Shape(1, 600.0): 0.0}, lacking=4) == FULL
    assert best(BOUNDS, FULL, {FULL: 9000.0, Shape(1, 600.0): None}, lacking=4) == FULL
    assert best(BOUNDS, FULL, {}, lacking=4) == FULL


def test_nothing_starts_within_the_horizon() -> None:
    assert best(BOUNDS, FULL, {FULL: 2 * HORIZON_S, Shape(1, 600.0): HORIZON_S}, lacking=4) in (FULL, Shape(1, 600.0))
    assert BETTER > 1


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.floats(60, 1e5),
    st.floats(60, 1e5),
    st.integers(1, 8),
    st.integers(1, 10_000),
    st.lists(st.one_of(st.none(), st.floats(0, 1e9)), min_size=5, max_size=5),
)
def test_every_shape_is_allowed(
    nodes: int, least: int, walltime_s: float, least_s: float, slots: int, lacking: int, guesses: list[float | None]
) -> None:
    full = Shape(max(nodes, least), max(walltime_s, least_s))
    bounds = Bounds(full=full, min_nodes=least, min_walltime_s=least_s, slots=slots)
    wanted = fitted(bounds, lacking)
    asked = [wanted, *others(bounds, wanted)]
    chosen = best(bounds, wanted, dict(zip(asked, guesses, strict=False)), lacking)
    assert chosen in asked
    for shape in asked:
        assert bounds.min_nodes <= shape.nodes <= full.nodes
        assert bounds.min_walltime_s <= shape.walltime_s <= full.walltime_s
        assert math.isfinite(shape.walltime_s)


@pytest.mark.parametrize("guess", [math.nan, math.inf, -math.inf])
def test_a_guess_that_is_no_time_is_none(guess: float) -> None:
    assert best(BOUNDS, FULL, {FULL: 9000.0, Shape(1, 600.0): guess}, lacking=4) == FULL
    assert best(BOUNDS, FULL, {FULL: guess, Shape(1, 600.0): 0.0}, lacking=4) == FULL


def test_a_start_in_the_past_gives_no_more_than_one_now() -> None:
    starts = {FULL: 0.0, Shape(4, 1800.0): -1e6}
    assert best(BOUNDS, FULL, starts, lacking=32) == FULL
