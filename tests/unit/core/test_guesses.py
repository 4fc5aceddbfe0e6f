"""What the scheduler guesses of a start, and nobody would believe."""

from __future__ import annotations

import pytest

from hpcserve.core.guesses import LONGEST_S, credible, from_now_on

NONE = float("nan"), float("inf"), -float("inf"), LONGEST_S + 1.0, -LONGEST_S - 1.0
SAME = 0.0, 7200.0, LONGEST_S


@pytest.mark.parametrize(
    ("guess_s", "waiting_s", "new_s"),
    [
        (None, None, None),
        *((each, None, None) for each in NONE),
        *((each, each, each) for each in SAME),
        (-5.0, None, 0.0),
        (-LONGEST_S, None, 0.0),
    ],
)
def test_guesses_that_cannot_be_true_are_none(
    guess_s: float | None, waiting_s: float | None, new_s: float | None
) -> None:
    assert credible(guess_s) == waiting_s
    assert from_now_on(guess_s) == new_s
