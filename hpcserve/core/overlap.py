"""When the next batch is launched while one computes.

A device computes one batch after the other. So that it never waits, the next one is at hand, its inputs copied, when
the one that runs ends; but what was launched early has left without those that came later, and small batches are dear.
So

- a batch that is full is launched at once;
- another one shortly before the one that runs is expected to end: ``LEAD`` of its time earlier, or ``MARGIN`` times
  what the last launch took, if that is more;
- no more than ``AT_ONCE`` are launched: a third would find the device no less busy, and could no longer be taken back.
"""

from __future__ import annotations

AT_ONCE = 2
LEAD = 0.25
MARGIN = 2.0
PAUSE_SHARE = 0.05
LEAST_PAUSE_S, MOST_PAUSE_S = 5e-5, 1e-3


def launch_in_s(ran_s: float, expected_s: float | None, launch_s: float) -> float:
    """In how many seconds a batch that is not full is launched; 0: now.

    Args:
        ran_s: How long the one that runs has been running.
        expected_s: How long it is expected to run in all; None: nobody knows.
        launch_s: How long the last launch took.
    """
    if expected_s is None:
        return 0.0
    return max(0.0, expected_s - max(LEAD * expected_s, MARGIN * launch_s) - ran_s)


def pause_s(ran_s: float) -> float:
    """How long to sleep before a batch that has run so long is looked at again: its end is seen a little late."""
    return min(MOST_PAUSE_S, max(LEAST_PAUSE_S, PAUSE_SHARE * ran_s))
