"""How much work a replica asks for."""

from __future__ import annotations

import pytest

from hpcserve.core.credit import FEWEST, HORIZON_S, MOST, Credit


def settled(run_s: float) -> Credit:
    credit = Credit()
    for _ in range(200):
        credit.ran(run_s)
    return credit


@pytest.mark.parametrize(
    ("run_s", "requests"),
    [(HORIZON_S * 0.999 / 20, 20), (HORIZON_S / 1e6, MOST), (0.0, MOST), (1.0, FEWEST), (3600.0, FEWEST)],
)
def test_credit_fills_the_horizon(run_s: float, requests: int) -> None:
    assert settled(run_s).requests() == requests


def test_a_new_replica_is_trusted_with_some() -> None:
    assert FEWEST < Credit().requests() < MOST


def test_one_slow_call_is_soon_forgotten() -> None:
    credit = settled(HORIZON_S / 100)
    before = credit.requests()
    credit.ran(1.0)
    assert credit.requests() == FEWEST
    for _ in range(100):
        credit.ran(HORIZON_S / 100)
    assert credit.requests() >= before * 0.9


def test_there_is_credit_for_two_batches_as_long_as_there_are_batches() -> None:
    credit = Credit()
    credit.ran_together(64, 128, 1.0, 256)
    assert credit.requests() == pytest.approx(2 * 256, rel=0.1)
    for _ in range(20):
        credit.ran_together(64, 128, 1.0, 256)
    assert credit.requests() == pytest.approx(256, rel=0.2)  # each of them has two samples
    for _ in range(100):
        credit.ran(10.0)
    assert credit.requests() == 2


def test_there_is_credit_for_three_batches_where_two_are_in_flight() -> None:
    credit = Credit()
    for _ in range(20):
        credit.ran_together(8, 8, 1.0, 8, batches=3)
    assert credit.requests() == 25
