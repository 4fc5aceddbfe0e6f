"""Whether digits are those of π, checked in another way than they were computed.

The Bailey–Borwein–Plouffe formula gives hexadecimal digits of π from any place on, without those before it. Those of
a decimal fraction depend on each of its N decimal digits, so a few of them near the end vouch for all: an error goes
unseen with probability 1e-6, or if it is a multiple of 2^-N. To make that one improbable as well, the first digits
are compared with what every computer knows.

Source: D. H. Bailey, P. B. Borwein, S. Plouffe, "On the rapid computation of various polylogarithmic constants", 1997.
"""

from __future__ import annotations

import math

SLACK = 5e-9
"""More than the floating-point sums are off by, up to some 10^6 digits."""
SPARE_PLACES = 5
"""So many hexadecimal places before the last one that the decimal digits determine: 16^-5 is well above SLACK."""
CHUNK = 4000  # int() of more than 4,300 digits is refused by Python's default


def is_pi(text: str, count: int) -> bool:
    """Whether ``text`` is ``3.`` and the first ``count`` (at least 50) digits of π behind the point."""
    known = f"{math.pi:.14f}"  # rounded as if cut off, as it happens
    if len(text) != count + 2 or not text.startswith(known) or not (text.isascii() and text[2:].isdigit()):
        return False
    place = int(count * math.log(10, 16)) - SPARE_PLACES
    cut_off = (_by_formula(place) - _of_decimals(text[2:], place) + SLACK) % 1.0
    one_unit: float = 16.0 ** (place - count * math.log(10, 16))  # of the last decimal place
    return cut_off < one_unit + 2 * SLACK


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
