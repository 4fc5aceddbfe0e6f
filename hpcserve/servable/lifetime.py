"""A process that runs a servable's code ends with the one that waits for it, whatever that code does."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2), <linux/prctl.h>


def die_with_parent() -> None:
    """Linux: a SIGKILL for this process when its parent dies, even while it imports or computes for ever.

    Elsewhere nothing happens: there the parent's pipe alone tells of its end, to who reads it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
