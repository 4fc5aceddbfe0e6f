"""Medians of paired measurements, with an interval that assumes no distribution.

The interval lies between two order statistics: the median is below the k-th smallest of n values with the
probability that a fair coin shows heads fewer than k times, whatever the values' distribution. With 20
values the 6th and the 15th enclose it with 95.9 %.

Source: H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed., section 7.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of values, equally deep from both ends, around the median with at least 95 %.

    Fewer than six values have none: then it is the whole range.
    """
    ordered = sorted(values)
    n, tail, depth = len(ordered), 0.0, 0
    while depth < n // 2:
        tail += math.comb(n, depth) / 2**n
        if 2 * tail > 1 - CONFIDENCE:
            break
        depth += 1
    depth = max(1, depth)
    return ordered[depth - 1], ordered[n - depth]


def summary(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """The median of the values, its interval and their number."""
    low, high = interval(values)
    return {
        "median": round(median(values), digits),
        "interval_95": [round(low, digits), round(high, digits)],
        "pairs": len(values),
    }
