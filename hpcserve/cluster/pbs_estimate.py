"""When PBS's scheduler thinks that jobs will start, as ``qstat -T`` lists it. Pure.

``estimated.start_time`` in the full answer about a job is exact; some sites let operators alone see it. The column of
``qstat -T`` holds a time of day for a job that is to start today, something coarser for a later one, and ``--`` where
there is no guess. Source: qstat(1B); a recorded answer of 23.06.
"""

from __future__ import annotations

import re
from datetime import datetime

_ROW = re.compile(r"^(\d+(?:\[\d*\])?)(?:\.\S*)?\s.*\s[A-Z]\s+(\S.*?)\s*$")
_TODAY = re.compile(r"(\d{1,2}):(\d{2})")


def parse_estimates(stdout: bytes, now: datetime) -> dict[str, float]:
    """In so many seconds each job will start of which PBS says a time of today; by the number in the job's id."""
    found = {}
    for line in stdout.decode(errors="replace").splitlines():
        row = _ROW.match(line)
        at = None if row is None else _TODAY.fullmatch(row[2])
        if row is None or at is None or int(at[1]) > 23 or int(at[2]) > 59:
            continue
        starts_in_s = (now.replace(hour=int(at[1]), minute=int(at[2]), second=0, microsecond=0) - now).total_seconds()
        if starts_in_s >= 0:
            found[row[1]] = starts_in_s
    return found
