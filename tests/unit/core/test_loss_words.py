"""A loss in words says nothing twice."""

from __future__ import annotations

import pytest

from hpcserve.core.losses import loss_in_words
from hpcserve.core.spans import span


@pytest.mark.parametrize(
    ("kind", "cause", "told"),
    [
        ("cancelled", "CANCELLED", "cancelled"),
        ("cancelled", "CANCELLED; by uid 7", "CANCELLED; by uid 7"),
        ("walltime", "TIMEOUT: its walltime is used up", "walltime: TIMEOUT: its walltime is used up"),
        ("crashed", "", "crashed"),
    ],
)
def test_a_loss_in_words(kind: str, cause: str, told: str) -> None:
    assert loss_in_words(kind, cause) == told
    assert loss_in_words(kind, cause, drained=True) == f"drained; {told}"


@pytest.mark.parametrize(
    ("seconds", "told"), [(-3.0, "0 s"), (59.9, "59 s"), (185.0, "3 min 5 s"), (8040.0, "2 h 14 min"), (1e5, "1 d 3 h")]
)
def test_a_length_of_time_in_words(seconds: float, told: str) -> None:
    assert span(seconds) == told
