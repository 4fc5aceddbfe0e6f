"""How long a batch takes, learned while batches run: ``fixed + per_sample · samples``.

The estimator is that of Theil (1950) and Sen (1968), of medians. Of the last ``WINDOW`` batches those of about one size
(half an octave) are put together, and stand in the fit as the median of their sizes and the median of their times,
with their number as the weight; the slope is the weighted median of the slopes between any two such points. So

- it is robust: many batches may be as slow as they like (a page fault, a collection) and move nothing. Recursive
  least squares with forgetting, the usual choice, follows every outlier, and its gain grows without end while all
  batches have one size;
- it is cheap enough: there are a dozen sizes at most; and a fit, of half a millisecond, is made when an eighth of what
  it rests on is new, and took ``FIT_EVERY_S`` to run;
- it forgets: what is older than ``WINDOW`` batches is gone; and when ``SURPRISES`` batches in a row are far off on the
  same side, all that was before them is gone at once, as a model has been changed or a neighbour has come.

Where all batches had about one size (:attr:`LatencyModel.sizes`) the line rises as the last one did that rested on
several; before there was one it goes through the origin, the careful guess of what a larger batch takes.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable
from operator import itemgetter
from statistics import median
from typing import NamedTuple

WINDOW = 64
SURPRISES = 5
FIT_EVERY_S = 0.02
FAR = 1.5
"""A batch is a surprise when it took so many times as long as expected, or as much less."""

FLAT = 1e-9
"""Below this share of the height a slope is a rounding error."""


class Line(NamedTuple):
    """The time of a batch in seconds: ``fixed_s`` for having one, ``per_sample_s`` for each sample in it."""

    fixed_s: float
    per_sample_s: float

    def seconds(self, samples: float) -> float:
        """How long a batch of this size is expected to take."""
        return self.fixed_s + self.per_sample_s * samples

    def samples(self, within_s: float) -> float:
        """The size of the batch that is expected to take ``within_s`` seconds; at least 0, perhaps infinite."""
        left_s = within_s - self.fixed_s
        if left_s < 0:
            return 0.0
        return left_s / self.per_sample_s if self.per_sample_s > FLAT * self.fixed_s else math.inf


class LatencyModel:
    """The line of one method at one replica."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._line: Line | None = None
        self._shape = Line(0.0, 1.0)
        self._stale = 0
        self._stale_s = 0.0
        self._surprises = 0
        self.largest = 0
        """The most samples of a batch that is remembered; 0 at the beginning."""
        self.sizes = 0
        """How many sizes the line rests on; with one its slope is a guess."""

    @property
    def batches(self) -> int:
        """How many batches the line rests on."""
        return len(self._batches)

    @property
    def line(self) -> Line | None:
        """The line through what is remembered; None before the first batch."""
        if self._batches and (self._line is None or self._is_stale()):
            points = _medians(self._batches)
            if len(points) > 1:
                self._line = self._shape = _fit(points)
            else:
                self._line = _like(self._shape, *points[0][1:])
            self.sizes = len(points)
            self.largest = max(samples for samples, _ in self._batches)
            self._stale, self._stale_s = 0, 0.0
        return self._line

    def _is_stale(self) -> bool:
        known = len(self._batches)
        return self._stale >= max(1, known // 8) and (self._stale_s >= FIT_EVERY_S or known < SURPRISES)

    def ran(self, samples: int, took_s: float) -> bool:
        """A batch of ``samples``, at least 1, took ``took_s`` seconds.

        Returns:
            Whether all that was learned before the last few batches was given up.
        """
        self._surprises = self._surprised(samples, took_s)
        self._batches.append((samples, took_s))
        self._stale += 1
        self._stale_s += took_s
        self.largest = max(self.largest, samples)
        if abs(self._surprises) < SURPRISES:
            return False
        self._batches = deque(list(self._batches)[-SURPRISES:], WINDOW)
        self._surprises = 0
        self._line = None
        return True

    def _surprised(self, samples: int, took_s: float) -> int:
        """How many batches in a row were far too slow (positive) or far too fast (negative), this one included."""
        line = self.line
        if line is None:
            return 0
        expected_s = line.seconds(samples)
        if took_s > FAR * expected_s:
            return max(self._surprises, 0) + 1
        if took_s * FAR < expected_s:
            return min(self._surprises, 0) - 1
        return 0


def _medians(batches: Iterable[tuple[int, float]]) -> list[tuple[int, float, float]]:
    """For each half octave of sizes: how many batches, their median size, their median time."""
    by_size: dict[int, list[tuple[int, float]]] = {}
    for batch in batches:
        by_size.setdefault(round(2 * math.log2(batch[0])), []).append(batch)
    return [
        (len(group), float(median(samples for samples, _ in group)), median(took_s for _, took_s in group))
        for group in by_size.values()
    ]


def _like(shape: Line, samples: float, took_s: float) -> Line:
    """The line through one point that rises as this one does."""
    expected_s = shape.seconds(samples)
    if expected_s <= 0:
        return Line(0.0, took_s / samples)
    return Line(shape.fixed_s * took_s / expected_s, shape.per_sample_s * took_s / expected_s)


def _fit(points: list[tuple[int, float, float]]) -> Line:
    """The line of the median slope between two points and of the median height, with neither term negative."""
    slopes = [
        (w1 * w2, (y2 - y1) / (x2 - x1)) for (w1, x1, y1), (w2, x2, y2) in itertools.combinations(points, 2) if x1 != x2
    ]
    if slopes:
        slope = max(0.0, _weighted_median(slopes))
        fixed = _weighted_median([(w, y - slope * x) for w, x, y in points])
        if fixed >= 0:
            return Line(fixed, slope)
    return Line(0.0, _weighted_median([(w, y / x) for w, x, y in points]))


def _weighted_median(values: list[tuple[int, float]]) -> float:
    """The value at the middle of the weight; ``values`` are pairs of weight and value, one at least."""
    values.sort(key=itemgetter(1))
    middle = sum(weight for weight, _ in values) / 2
    for weight, value in values:
        middle -= weight
        if middle <= 0:
            return value
    return values[-1][1]
