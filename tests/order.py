"""In which order workers begin the files of tests, so that none has a long one left when the others are done.

Facility tests mostly wait for Slurm, the other ones with processes mostly compute: they take turns, so that all the
time some of the workers leave the processors to the rest. Of each kind those come first that may take longest, by
the time that they allow themselves. Unit tests are short, and fill up the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WAITING = "tests/facility/"
SHORT = "tests/unit/"


def in_turns(timeouts_s: Mapping[str, float]) -> Sequence[str]:
    """The files in the order in which they are begun.

    Args:
        timeouts_s: The longest timeout of a test of each file, the paths as they are in the names of tests.
    """
    longest_first = sorted(timeouts_s, key=lambda file: -timeouts_s[file])
    waiting = [file for file in longest_first if file.startswith(WAITING)]
    short = [file for file in longest_first if file.startswith(SHORT)]
    busy = [file for file in longest_first if not file.startswith((WAITING, SHORT))]
    turns = [(index / len(kind), file) for kind in (waiting, busy) for index, file in enumerate(kind)]
    return [file for _, file in sorted(turns, key=lambda turn: turn[0])] + short
