"""A set of whole numbers that costs what its gaps cost, not what its members do.

A client with one long request and a million short ones settles the million while the long one holds the floor down.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from heapq import merge

FEW = 32


class Ranges:
    """Numbers, as ranges ``[start, end)`` in order, no two of which touch. ``len`` counts the ranges."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._starts, number)
        return index > 0 and number < self._ends[index - 1]

    def add(self, number: int) -> None:
        """Puts a number in."""
        index = bisect_right(self._starts, number)
        if index and number < self._ends[index - 1]:
            return
        after_one = bool(index) and self._ends[index - 1] == number
        before_one = index < len(self._starts) and self._starts[index] == number + 1
        if after_one and before_one:
            self._ends[index - 1] = self._ends.pop(index)
            del self._starts[index]
        elif after_one:
            self._ends[index - 1] = number + 1
        elif before_one:
            self._starts[index] = number
        else:
            self._starts.insert(index, number)
            self._ends.insert(index, number + 1)

    def update(self, numbers: Iterable[int]) -> None:
        """Puts numbers in; many at once, in whatever order, cost one pass."""
        ordered = sorted(numbers)
        if len(ordered) <= FEW:
            for number in ordered:
                self.add(number)
            return
        starts: list[int] = []
        ends: list[int] = []
        ours = zip(self._starts, self._ends, strict=True)
        for start, end in merge(ours, ((number, number + 1) for number in ordered)):
            if ends and start <= ends[-1]:
                ends[-1] = max(ends[-1], end)
            else:
                starts.append(start)
                ends.append(end)
        self._starts, self._ends = starts, ends

    def drop_below(self, floor: int) -> None:
        """Takes out all numbers below ``floor``."""
        index = bisect_right(self._ends, floor)
        del self._starts[:index], self._ends[:index]
        if self._starts and self._starts[0] < floor:
            self._starts[0] = floor
