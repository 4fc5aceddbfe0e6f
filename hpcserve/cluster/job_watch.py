"""What is remembered of each job between two polls, which the scheduler would not tell again. Pure.

Decides when a job that the scheduler does not know any more, and of whose end nothing is told, is given up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hpcserve.cluster.seam import JobEnd, JobId, JobState

GONE_AFTER = 3
"""So many answers in a row without a job, and the scheduler has forgotten it."""
GONE_AFTER_S = 60.0
"""And over so long, where its end may be told late: by accounting, or after the scheduler was begun anew."""
FORGOTTEN_AFTER_S = 600.0
"""A job that nobody has asked about for so long is nobody's any more. Some questions are about a few jobs alone."""


@dataclass(slots=True)
class Watched:
    """One job.

    Attributes:
        seen: Whether the scheduler has ever told of it.
        called: The name that it had then, where a number may become another job's; empty: not known.
        host: The last node that ran it.
        restarts: How often it was requeued.
        former_end: How the run before that one ended, as far as accounting told.
        missed: The good answers in a row that lack it.
        missed_since_s: When the first of these came, or accounting was last silent; on the caller's clock.
        asked_s: When it was last asked about.
    """

    seen: bool = False
    called: str = ""
    host: str = ""
    restarts: int = 0
    former_end: JobEnd | None = None
    missed: int = 0
    missed_since_s: float = 0.0
    asked_s: float = 0.0


class Watch:
    """All jobs that are asked about."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, Watched] = {}

    def __getitem__(self, job: JobId) -> Watched:
        return self._jobs[job]

    def asked(self, jobs: Collection[JobId], now_s: float) -> None:
        """Somebody wants to know about these, answered or not. What nobody asks about is forgotten."""
        for job in jobs:
            self._jobs.setdefault(job, Watched()).asked_s = now_s
        self._jobs = {job: each for job, each in self._jobs.items() if now_s - each.asked_s < FORGOTTEN_AFTER_S}

    def told(self, asked: Collection[JobId], known: Mapping[JobId, JobState], now_s: float) -> list[JobId]:
        """The scheduler has answered.

        Args:
            asked: The jobs in question, for which :meth:`asked` was called; what is known of others stays as it is.
            known: What it said of those that it knows.
            now_s: Of a clock that is never set back.

        Returns:
            Those that were requeued since the last answer.
        """
        requeued = []
        for job in asked:
            watched = self._jobs[job]
            if job not in known:
                if watched.missed == 0:
                    watched.missed_since_s = now_s
                watched.missed += 1
                continue
            state = known[job]
            if state.restarts > watched.restarts:
                requeued.append(job)
            watched.seen, watched.missed = True, 0
            watched.restarts = state.restarts
            watched.host = state.host or watched.host
        return requeued

    def accounting_is_silent(self, jobs: Iterable[JobId], now_s: float) -> None:
        """Once it answers, it has the whole time to tell of these."""
        for job in jobs:
            self._jobs[job].missed_since_s = now_s

    def is_lost(self, job: JobId, now_s: float, after_s: float = GONE_AFTER_S) -> bool:
        """Whether nobody will ever tell of a job of which the scheduler knows nothing and accounting no end."""
        watched = self._jobs[job]
        return watched.missed >= GONE_AFTER and now_s - watched.missed_since_s >= after_s
