from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.overlap import LEAST_PAUSE_S, MOST_PAUSE_S, launch_in_s, pause_s


@pytest.mark.parametrize(
    ("ran_s", "expected_s", "launch_s", "in_s"),
    [
        (0.0, None, 0.0, 0.0),  # nobody knows how long it runs
        (0.0, 0.1, 0.0, 0.075),
        (0.05, 0.1, 0.0, 0.025),
        (0.075, 0.1, 0.0, 0.0),
        (5.0, 0.1, 0.0, 0.0),  # it takes longer than expected
        (0.0, 0.1, 0.02, 0.06),  # a launch that takes long begins earlier
        (0.0, 0.1, 1.0, 0.0),
    ],
)
def test_the_next_is_launched_shortly_before_the_first_ends(
    ran_s: float, expected_s: float | None, launch_s: float, in_s: float
) -> None:
    assert launch_in_s(ran_s, expected_s, launch_s) == pytest.approx(in_s)


@given(st.floats(0, 1e4))
def test_its_end_is_seen_a_twentieth_late_at_most_or_a_millisecond(ran_s: float) -> None:
    found = pause_s(ran_s)
    assert LEAST_PAUSE_S <= found <= MOST_PAUSE_S
    assert found <= max(LEAST_PAUSE_S, 0.05 * ran_s)
