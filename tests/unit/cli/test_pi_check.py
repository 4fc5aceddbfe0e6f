from __future__ import annotations

import pytest

from hpcserve.cli.pi_check import is_pi

# Source: the first 100 digits, as every table has them.
PI_100 = "3.1415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679"


def test_the_digits_of_pi_are_recognised() -> None:
    assert is_pi(PI_100, 100)


@pytest.mark.parametrize("place", [2, 3, 50, 90, 100, 101])
@pytest.mark.parametrize("change", [1, 5, 9])
def test_a_wrong_digit_anywhere_is_found(place: int, change: int) -> None:
    digit = str((int(PI_100[place]) + change) % 10)
    assert not is_pi(PI_100[:place] + digit + PI_100[place + 1 :], 100)


@pytest.mark.parametrize(
    "count", [count for count in range(50, 99) if "5" <= PI_100[count + 2] <= "8" and PI_100[count + 1] < "9"]
)
def test_digits_rounded_up_are_not_those_cut_off(count: int) -> None:
    cut_off = PI_100[: count + 2]
    assert is_pi(cut_off, count)
    assert not is_pi(cut_off[:-1] + str(int(cut_off[-1]) + 1), count)


@pytest.mark.parametrize(
    "text", ["", "3.", "3.14", PI_100[:-1], PI_100 + "8", "2" + PI_100[1:], PI_100[:-1] + "x", PI_100[:-1] + "٣"]
)
def test_what_is_not_such_a_number_is_refused(text: str) -> None:
    assert not is_pi(text, 100)
