"""When a deployment is given up whose replicas start, and then end without anything done."""

from __future__ import annotations

from hpcserve.daemon.controller.failures import MOST_IN_VAIN, MOST_OF_PROVEN, NEVER_READY, Failures


def test_five_ends_in_a_row_are_too_many_for_what_never_worked() -> None:
    failures = Failures(NEVER_READY)
    counts = [failures.in_vain(1, worked=False) for _ in range(MOST_IN_VAIN)]
    assert counts == [None, None, None, None, 5]


def test_what_has_worked_has_more_patience_and_what_works_starts_anew() -> None:
    failures = Failures(NEVER_READY)
    for _ in range(3):
        assert failures.in_vain(1, worked=True) is None
        for _ in range(MOST_OF_PROVEN - 2):
            assert failures.in_vain(1, worked=False) is None
    assert failures.in_vain(1, worked=False) == MOST_OF_PROVEN


def test_replicas_that_end_together_all_count() -> None:
    assert Failures(NEVER_READY).in_vain(MOST_IN_VAIN + 1, worked=False) == MOST_IN_VAIN + 1
