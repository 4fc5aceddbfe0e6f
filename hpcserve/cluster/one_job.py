"""One job that somebody waits for: the scheduler is asked about it no more often than the site allows.

When to ask is decided in :mod:`hpcserve.core.polling`, as it is for pilots. Between two questions the job is as it was
told last; what is seen of it elsewhere, such as a file that it writes, brings the next question forward.
"""

from __future__ import annotations

import time

from hpcserve.cluster.seam import JobId, JobState, Scheduler
from hpcserve.config import Site
from hpcserve.core.outlook import credible
from hpcserve.core.polling import PollPace
from hpcserve.errors import SchedulerError


class OneJob:
    """A job.

    Args:
        site: Its site, which says how often may be asked. Site ``local`` serves nobody else: there pauses do not grow.
        scheduler: The site's scheduler.
        job: The job.

    Attributes:
        state: As the scheduler told it last; ``unknown`` as long as it has not, or does not answer.
        error: Why it does not answer; None: it does.
        is_stale: Something was seen of the job since the scheduler was asked.
    """

    def __init__(self, site: Site, scheduler: Scheduler, job: JobId) -> None:
        limits = site.scheduler
        self.state = JobState(phase="unknown")
        self.error: SchedulerError | None = None
        self.is_stale = True
        self._scheduler = scheduler
        self._job = job
        self._pace = PollPace(lambda: limits.poll_s, 0.0 if limits.kind == "local" else limits.poll_max_s)
        self._starts_s: list[float] = []

    def stir(self) -> None:
        """Something was seen of it: the scheduler is asked as soon as the site allows."""
        self.is_stale = True
        self._pace.stir()

    async def look(self) -> JobState:
        """Its state, asked anew if that is due: at once for the first time."""
        if self.state.phase != "ended" and time.monotonic() >= self._pace.due_s(self._starts_s):
            await self._ask()
        return self.state

    async def _ask(self) -> None:
        before, self.error, self._starts_s = self.state, None, []
        try:
            self.state = (await self._scheduler.poll([self._job]))[self._job]
        except SchedulerError as error:
            self.state, self.error = JobState(phase="unknown", cause=error.message), error
        now = time.monotonic()
        left_alone_s = 0.0 if self.error is None else self.error.retry_after_s or 0.0
        if left_alone_s:
            self._pace.put_off(now, left_alone_s)
            return
        self.is_stale = False
        self._pace.polled(now, news=_news(self.state) != _news(before), answered=self.error is None)
        starts_in_s = credible(self.state.starts_in_s)
        self._starts_s = [] if starts_in_s is None else [now + starts_in_s]


def _news(state: JobState) -> tuple[str | int, ...]:
    """What of a state is news when it changes; its cause in words and the guess of its start are none."""
    return state.phase, state.host, state.restarts
