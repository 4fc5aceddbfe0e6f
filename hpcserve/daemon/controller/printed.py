"""What one run of a pilot's job printed. All its runs write to one log, and each begins with a line of the job script.

By that line a run is told from the others whoever looks, and whenever: the next run may have begun when the
controller hears of a requeue, and the controller itself may be a later one.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from hpcserve.cluster.script import begins
from hpcserve.cluster.seam import own_log

_log = logging.getLogger(__name__)

MOST_BYTES = 256 << 10
"""So far back a run's beginning is looked for."""
TAIL_CHARACTERS = 4096
_LATER = re.compile(f"^{begins('[0-9]+')}\n", re.MULTILINE)


def printed(log: Path, run: int) -> str:
    """The last of what a run printed; empty if it has not begun, or its log cannot be read.

    Args:
        log: Of the pilot.
        run: 0 is the first; its output is what stands before the next, whether it began with a line or not. A run that
            the scheduler ended before its script began has no line.
    """
    said = _end(log)
    if not said and run == 0:
        return _end(own_log(log))[-TAIL_CHARACTERS:]  # why no script wrote to the log may stand there
    _, begun, own = said.rpartition(f"{begins(run)}\n")
    if not begun and run > 0:
        return ""
    return _LATER.split(own, maxsplit=1)[0][-TAIL_CHARACTERS:]


def _end(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        _log.warning("what a pilot printed cannot be read: %s", error)
        return ""
