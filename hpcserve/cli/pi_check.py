"""Whether digits are those of π, checked in another way than they were computed.

The Bailey–Borwein–Plouffe formula gives hexadecimal digits of π from any place on, without those before it. A decimal
fraction's hexadecimal digits depend on each of its decimal digits (a change of any digit by d · 10^-k has an endless
hexadecimal expansion), so a few of them near the end vouch for all: wrong digits pass with probability 2e-7.

Source: D. H. Bailey, P. B. Borwein, S. Plouffe, "On the rapid computation of various polylogarithmic constants", 1997.
"""

from __future__ import annotations

import math

TOLERANCE = 1e-7
SPARE_PLACES = 12
"""So many hexadecimal places before the last one that the decimal digits determine."""
CHUNK = 4000  # int() of more than 4,300 digits is refused by Python's default


def is_pi(text: str, count: int) -> bool:
    """Whether ``text`` is ``3.`` and the first ``count`` (at least 50) digits of π behind the point."""
    if len(text) != count + 2 or text[:2] != "3." or not (text[2:].isascii() and text[2:].isdigit()):
        return False
    place = int(count * math.log(10, 16)) - SPARE_PLACES
    difference = abs(_of_decimals(text[2:], place) - _by_formula(place))
    return min(difference, 1 - difference) < TOLERANCE


def _of_decimals(digits: str, place: int) -> float:
    """The fraction of 16^place · 0.digits."""
    number: int = 0
    for start in range(0, len(digits), CHUNK):
        part = digits[start : start + CHUNK]
        number = number * 10 ** len(part) + int(part)
    unit: int = 10 ** len(digits)
    fraction: int = (((number << 4 * place) % unit) << 53) // unit
    return fraction / (1 << 53)


def _by_formula(place: int) -> float:
    """The fraction of 16^place · π."""
    return (4 * _series(place, 1) - 2 * _series(place, 4) - _series(place, 5) - _series(place, 6)) % 1.0


def _series(place: int, offset: int) -> float:
    """The fraction of Σ 16^(place - k) / (8k + offset)."""
    total = 0.0
    for k in range(place + 1):
        divisor = 8 * k + offset
        residue: int = pow(16, place - k, divisor)
        total += residue / divisor
    tail = sum(16.0 ** (place - k) / (8 * k + offset) for k in range(place + 1, place + 16))
    return (total + tail) % 1.0
