"""Jobs of which PBS says nothing that can be used, though it answers: for how long they are waited for. Pure.

Each of them keeps new pilots from being submitted, since it may live. So it is waited for a minute, as it may be
between two states, and then deleted, whatever it is. Once the deletion was heard it is given up at once; where it is
refused, it is tried for as long again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from hpcserve.cluster.job_watch import GONE_AFTER, GONE_AFTER_S
from hpcserve.cluster.seam import JobId

Step = Literal["wait", "delete", "give up"]


@dataclass(slots=True)
class _Doubt:
    since_s: float
    answers: int = 0
    is_deleted: bool = False


class Doubts:
    """The jobs in doubt."""

    def __init__(self) -> None:
        self._doubts: dict[JobId, _Doubt] = {}

    def told(self, asked: Collection[JobId], doubtful: Collection[JobId], now_s: float) -> None:
        """PBS has answered, and of some of the jobs that were asked for nothing is known yet."""
        for job in asked:
            if job in doubtful:
                self._doubts.setdefault(job, _Doubt(now_s)).answers += 1
            else:
                self._doubts.pop(job, None)

    def silence(self, asked: Collection[JobId]) -> None:
        """PBS has not answered: what it said of these before is no sign that they are in doubt now."""
        self._doubts = {job: each for job, each in self._doubts.items() if each.is_deleted or job not in asked}

    def step(self, job: JobId, now_s: float) -> Step:
        """What is to become of a job in doubt."""
        doubt = self._doubts[job]
        in_doubt_s = now_s - doubt.since_s
        if doubt.is_deleted:
            return "give up"
        if doubt.answers <= GONE_AFTER or in_doubt_s < GONE_AFTER_S:
            return "wait"
        return "delete" if in_doubt_s < 2 * GONE_AFTER_S else "give up"

    def is_deleted(self, job: JobId) -> bool:
        """Whether its deletion was heard."""
        return self._doubts[job].is_deleted

    def deleted(self, job: JobId) -> None:
        """Its deletion was heard."""
        self._doubts[job].is_deleted = True
