"""The line of latency against batch size: found, kept from outliers, forgotten when it is not true any more."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcserve.core.latency import SURPRISES, WINDOW, LatencyModel, Line

LINES = [Line(5e-3, 1e-4), Line(1e-3, 1e-3), Line(2e-2, 1e-5)]


def fed(model: LatencyModel, line: Line, batches: int, dice: random.Random, *, slow: float = 0.0) -> LatencyModel:
    """``batches`` batches of random sizes; each takes 5 % more or less, and a part of them ten times as long."""
    for _ in range(batches):
        samples = dice.randint(1, 64)
        times = 10 if dice.random() < slow else dice.uniform(0.95, 1.05)
        model.ran(samples, line.seconds(samples) * times)
    return model


def close_to(found: Line | None, line: Line, tolerance: float) -> bool:
    return found is not None and all(
        found.seconds(samples) == pytest.approx(line.seconds(samples), rel=tolerance) for samples in (1, 16, 64)
    )


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("slow", [0.0, 0.15])
def test_it_finds_the_line_among_outliers(line: Line, slow: float) -> None:
    model = fed(LatencyModel(), line, WINDOW, random.Random(1), slow=slow)
    assert close_to(model.line, line, 0.15)
    assert model.batches == WINDOW


@pytest.mark.parametrize("change", [0.2, 3.0])
def test_a_change_is_learned_from_a_few_batches(change: float) -> None:
    dice = random.Random(2)
    old = LINES[0]
    new = Line(old.fixed_s * change, old.per_sample_s * change)
    model = fed(LatencyModel(), old, 200, dice)
    forgot = [model.ran(samples, new.seconds(samples)) for samples in dice.choices(range(1, 65), k=SURPRISES)]
    assert forgot == [False] * (SURPRISES - 1) + [True]
    fed(model, new, 12, dice)
    assert close_to(model.line, new, 0.2)


def test_a_slow_batch_now_and_then_is_no_change() -> None:
    model = fed(LatencyModel(), LINES[0], 100, random.Random(3))
    for _ in range(20):
        assert not any(model.ran(8, 1.0) for _ in range(SURPRISES - 1))
        assert not model.ran(8, LINES[0].seconds(8))
    assert model.batches == WINDOW


def test_a_drift_is_followed_within_the_window() -> None:
    dice = random.Random(4)
    model = fed(LatencyModel(), LINES[1], 100, dice)
    new = Line(LINES[1].fixed_s * 1.3, LINES[1].per_sample_s * 1.3)
    fed(model, new, WINDOW, dice)
    assert close_to(model.line, new, 0.1)


def test_of_one_size_the_line_goes_through_the_origin() -> None:
    model = LatencyModel()
    assert model.line is None
    for _ in range(10):
        model.ran(4, 8e-3)
    line = model.line
    assert line is not None
    assert line.fixed_s == 0
    assert line.per_sample_s == pytest.approx(2e-3)
    assert model.sizes == 1
    assert model.largest == 4


@example([(1, 1.0), (1, 1.0), (2, 1e-07), (3, 1.0000000000000001e-07), (4, 2.0)])
@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(1e-7, 100.0)), min_size=1, max_size=200))
def test_neither_term_is_ever_negative(batches: list[tuple[int, float]]) -> None:
    model = LatencyModel()
    for samples, took_s in batches:
        model.ran(samples, took_s)
        line = model.line
        assert line is not None
        assert line.fixed_s >= 0
        assert line.per_sample_s >= 0
        assert line.samples(line.seconds(10)) >= 9.99


def test_the_largest_batch_within_a_time() -> None:
    assert Line(0.01, 0.001).samples(0.03) == pytest.approx(20)
    assert Line(0.01, 0.001).samples(0.005) == 0
    assert Line(0.01, 0.0).samples(0.03) == float("inf")
