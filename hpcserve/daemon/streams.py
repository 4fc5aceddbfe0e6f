"""The standard streams of a daemon, which whoever starts it may have closed.

A stream that is closed leaves its number to the next socket or file that is opened. What was meant for people would
then be written into that; and a child that is given it in another stream's place would not get it at all. So the
three numbers are always taken, by ``/dev/null`` if by nothing else.
"""

from __future__ import annotations

import os
import sys

STANDARD = range(3)


def hold() -> None:
    """Takes the standard streams that are closed. Call it before anything is opened."""
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            _take(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 (as long as the process)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def let_go(descriptor: int) -> None:
    """Closes a descriptor, so that its reader sees the end; the number of a standard stream stays taken."""
    if descriptor in STANDARD:
        _take(descriptor)
    else:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    os.set_inheritable(descriptor, True)
