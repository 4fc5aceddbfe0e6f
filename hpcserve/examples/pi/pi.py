"""Digits of π.

The Chudnovsky series gives about 14.18 digits per term; binary splitting sums it in integers:

    1/π = 12 Σ (-1)^k (6k)! (13591409 + 545140134 k) / ((3k)! (k!)^3 640320^(3k + 3/2))

With P, Q, T of a range of terms, π = 426880 √10005 Q / T. Everything is an integer scaled by a power of
ten, so the only errors are those of the roots and divisions, a few units of the last guard digit; more
guard digits are taken until they cannot reach the digits asked for.

Source: D. V. and G. V. Chudnovsky, "Approximations and complex multiplication according to Ramanujan", 1988;
B. Haible and T. Papanikolaou, "Fast multiprecision evaluation of series of rational numbers", 1998.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcserve import Tensor, method
from hpcserve.errors import ServableError

try:
    import gmpy2  # type: ignore[import-not-found, unused-ignore]  # optional: about 20 times faster

    integer: Callable[[int], Any] = gmpy2.mpz
    square_root: Callable[[Any], Any] = gmpy2.isqrt
except ImportError:
    integer = int
    square_root = math.isqrt

MAX_DIGITS = 10_000_000
DIGITS_PER_TERM = math.log10(640320**3 / 1728)
GUARD_DIGITS = 10
ERROR_UNITS = 10
"""More than the truncated root and division can be off by, in units of the last guard digit."""


@method(inputs={"ndigits": Tensor("int64")}, outputs={"digits": Tensor("BYTES")})
def digits(ndigits: np.ndarray[Any, Any]) -> bytes:
    """π, cut off (not rounded) after ``ndigits: int64[]`` digits behind the point: ``b"3.14"`` for 2."""
    count = int(ndigits)
    if not 1 <= count <= MAX_DIGITS:
        raise ServableError(f"ndigits = {count}: expected 1 to {MAX_DIGITS}")
    text = _text(_truncated(count))
    return f"{text[0]}.{text[1:]}".encode()


def _truncated(count: int) -> Any:
    """⌊π · 10^count⌋."""
    guard = GUARD_DIGITS
    while True:
        scaled = _scaled(count + guard)
        unit = integer(10) ** guard
        low, high = (scaled - ERROR_UNITS) // unit, (scaled + ERROR_UNITS) // unit
        if low == high:
            return low
        guard *= 2


def _scaled(count: int) -> Any:
    """π · 10^count, wrong by less than ERROR_UNITS."""
    _, q, t = _split(0, int(count / DIGITS_PER_TERM) + 2)
    return 426880 * square_root(10005 * integer(10) ** (2 * count)) * q // t


def _split(first: int, end: int) -> tuple[Any, Any, Any]:
    """P, Q, T of the terms ``first`` up to, not including, ``end``."""
    if end - first == 1:
        return _term(first)
    middle = (first + end) // 2
    p_left, q_left, t_left = _split(first, middle)
    p_right, q_right, t_right = _split(middle, end)
    return p_left * p_right, q_left * q_right, t_left * q_right + p_left * t_right


def _term(k: int) -> tuple[Any, Any, Any]:
    if k == 0:
        return integer(1), integer(1), integer(13591409)
    p = -integer((6 * k - 5) * (2 * k - 1) * (6 * k - 1))
    q = integer(k) ** 3 * (640320**3 // 24)
    return p, q, p * (13591409 + 545140134 * k)


def _text(number: Any) -> str:
    # Python refuses more than 4,300 digits by default, since 3.10.7; the limit is the whole process's own.
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    return str(number)
