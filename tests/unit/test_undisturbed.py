"""Measurements are made again while the host takes the processors for other machines."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks import machine

TICKS = 1000


def measured(monkeypatch: pytest.MonkeyPatch, stolen: Sequence[int]) -> tuple[int, int]:
    """What is chosen of measurements that return their number, and how many were made.

    Args:
        monkeypatch: For the kernel's counters.
        stolen: Of the 1000 ticks that each takes, so many went to other machines.
    """
    clock, lost, made = 0, 0, 0

    def measure() -> int:
        nonlocal clock, lost, made
        clock, lost, made = clock + TICKS, lost + stolen[made], made + 1
        return made

    monkeypatch.setattr(machine, "_ticks", lambda: (clock, lost))
    return machine.undisturbed(measure, tries=len(stolen)), made


@pytest.mark.parametrize(
    ("stolen", "chosen", "made"),
    [
        ([0, 0, 0], 1, 1),
        ([20, 0, 0], 1, 1),
        ([21, 500, 0, 0], 3, 3),
        ([300, 20, 0], 2, 2),
        ([300, 100, 200], 2, 3),
        ([100, 100, 100], 1, 3),
        ([1000], 1, 1),
    ],
)
def test_the_first_undisturbed_one_counts_or_else_the_least_disturbed(
    monkeypatch: pytest.MonkeyPatch, stolen: Sequence[int], chosen: int, made: int
) -> None:
    assert measured(monkeypatch, stolen) == (chosen, made)


def test_the_kernels_counters_only_grow() -> None:
    first, second = machine._ticks(), machine._ticks()
    assert 0 <= first[1] <= second[1]
    assert first[1] < first[0] <= second[0]
