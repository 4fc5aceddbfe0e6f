"""What waits for the batch scheduler: submissions, cancellations and polls, one after another in a task of its own.

A scheduler may take half a minute to say that it does not answer. Nothing else waits for that: what is decided comes
in here as a line of things to do, and what the scheduler says goes out by callbacks.

The scheduler serves others, too: polls follow :mod:`hpcserve.core.polling`, and submissions wait in the line while the
site allows no more of them, or while nobody knows what became of another pilot. Where one is not taken the rest of the
line is not even tried: it would be told the same. What is still wanted then comes in again later.

A cancellation that fails is the polls' to try again (:class:`~hpcserve.daemon.controller.pilots.Pilots`): here each is
tried once, and after the poll that is due, so that a job that cannot be ended hides no news of the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from hpcserve.cluster.seam import JobState
from hpcserve.config import Site
from hpcserve.core.polling import PollPace
from hpcserve.core.ratelimit import Bucket
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.errors import ConfigError, HpcserveError, JobRefused, SchedulerError
from hpcserve.types import PilotId

_log = logging.getLogger(__name__)

IN_DOUBT = "it is not submitted while nobody knows what became of another pilot"
LASTING = (JobRefused, ConfigError)
"""Who is refused so is refused again, unless somebody changes something."""
TOO_MANY = "it is submitted as soon as scheduler.submit_per_min allows, after those before it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Whom this part tells.

    Attributes:
        seen: The scheduler has said this about a pilot.
        refused: A pilot was not submitted, for this reason.
        dropped: A pilot was not submitted, since it was cancelled before its turn came.
        waits: A pilot waits for its turn for this reason; for an empty one no more.
    """

    seen: Callable[[PilotId, JobState], Awaitable[None]]
    refused: Callable[[PilotId, HpcserveError], Awaitable[None]]
    dropped: Callable[[PilotId], Awaitable[None]]
    waits: Callable[[PilotId, str], None]


class Scheduling:
    """The line of things to do at the scheduler.

    Args:
        pilots: By which they are done.
        ears: Who hears what came of them.
        pace: When to poll.
        bucket: Where each submission takes a token; None: there are as many as are wanted.
        expected_s: When pilots are expected to end, in monotonic seconds.
    """

    def __init__(
        self,
        pilots: Pilots,
        ears: Ears,
        pace: PollPace,
        *,
        bucket: Bucket | None = None,
        expected_s: Callable[[], Iterable[float]] = tuple,
    ) -> None:
        self._pilots = pilots
        self._ears = ears
        self._pace = pace
        self._bucket = bucket
        self._expected_s = expected_s
        self._submit: list[PilotId] = []
        self._submit_at_s = float("inf")
        self._cancel: list[PilotId] = []
        self._dropped: list[PilotId] = []
        self._seen: dict[PilotId, tuple[str | None, ...]] = {}
        self._starts_s: list[float] = []
        self._woken = asyncio.Event()

    def submit(self, pilot: PilotId) -> None:
        """Submits a pilot, soon."""
        self._submit.append(pilot)
        self._woken.set()

    def cancel(self, pilot: PilotId) -> None:
        """Cancels a pilot, soon; one that is in the line is not submitted any more."""
        if pilot in self._submit:
            self._submit.remove(pilot)
            self._dropped.append(pilot)
        else:
            self._cancel.append(pilot)
        self._woken.set()

    def look(self) -> None:
        """Something happened that the scheduler may know the reason of: it is polled soon."""
        self._pace.stir()
        self._woken.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            self._woken.clear()
            await self._submit_all()
            await self._tell_dropped()
            if self._is_due():
                await self._poll()
            await self._cancel_all()
            try:
                # Not wait_for(): before Python 3.12 it swallows a cancellation that comes together with a call.
                async with asyncio.timeout(self._wait_s()):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def end_all(self, within_s: float, *, asking_s: float = 0.0) -> None:
        """Cancels every pilot and waits until all have ended; :meth:`run` has ended before.

        Args:
            within_s: For so long at most.
            asking_s: Longer by so much at most where the scheduler takes its time for each cancellation.
        """
        try:
            async with asyncio.timeout(within_s) as limit:
                await self._end_all(limit, within_s, asking_s)
        except TimeoutError:
            for pilot, job in self._pilots.jobs.items():
                _log.warning("pilot %s (job %s) may go on: %s", pilot, job.name, job.state.cause or job.state.phase)

    async def _end_all(self, limit: asyncio.Timeout, within_s: float, asking_s: float) -> None:
        self._pilots.retry_now()  # a user waits for it
        began = asyncio.get_running_loop().time()
        for pilot in list(self._pilots.jobs):
            if await self._cancel_one(pilot):
                took_s = asyncio.get_running_loop().time() - began
                limit.reschedule(began + min(took_s, asking_s) + within_s)
        while self._pilots.jobs:
            self._pace.stir()
            await asyncio.sleep(self._pace.due_s() - time.monotonic())
            states = await self._pilots.poll()
            self._pace.polled(time.monotonic(), news=True)
            for pilot, state in states.items():
                if state.phase == "ended":
                    await self._pilots.end(pilot, "the daemon was taken down")

    async def _cancel_one(self, pilot: PilotId) -> bool:
        """Whether the scheduler has taken it."""
        try:
            await self._pilots.cancel(pilot)
        except SchedulerError as error:
            _log.warning("pilot %s is not cancelled yet: %s", pilot, error)
            return False
        return True

    def _has_to_ask(self) -> bool:
        return bool(self._pilots.jobs) or self._pilots.is_looking

    def _is_due(self) -> bool:
        return self._has_to_ask() and time.monotonic() >= self._due_s()

    def _due_s(self) -> float:
        return self._pace.due_s([*self._starts_s, *self._expected_s()])

    def _wait_s(self) -> float | None:
        """Until there is something to do, if nobody calls."""
        until_s = min(self._submit_at_s, self._due_s() if self._has_to_ask() else float("inf"))
        return None if until_s == float("inf") else max(0.0, until_s - time.monotonic())

    async def _submit_all(self) -> None:
        """Submits those whose turn it is; the others stay in the line."""
        self._submit_at_s = float("inf")
        while self._submit:
            why = self._hold()
            if why:
                for pilot in self._submit:
                    self._ears.waits(pilot, why)
                return
            await self._submit_one(self._submit.pop(0))

    def _hold(self) -> str:
        """Why the next one is not submitted now; empty if it is."""
        if self._pilots.is_in_doubt:
            return IN_DOUBT  # a poll will end it
        wait_s = 0.0 if self._bucket is None else self._bucket.take(time.monotonic())
        if wait_s:
            self._submit_at_s = time.monotonic() + wait_s
        return TOO_MANY if wait_s else ""

    async def _submit_one(self, pilot: PilotId) -> None:
        self._ears.waits(pilot, "")
        try:
            job = await self._pilots.job_of(pilot)
            if pilot in self._cancel:  # since its turn came: to find its shape may take long
                self._cancel.remove(pilot)
                self._dropped.append(pilot)
                return
            await self._pilots.submit(pilot, job)
        except HpcserveError as error:
            _log.warning("pilot %s was not submitted: %s", pilot, error)
            await self._refused(pilot, error)
        else:
            self._pace.stir()

    async def _refused(self, pilot: PilotId, error: HpcserveError) -> None:
        """One was not taken, and so nobody behind it is tried."""
        rest, self._submit = self._submit, []
        await self._ears.refused(pilot, error)
        # A fault counts once, with the one that was refused for it, and so does its pause.
        same = SchedulerError(error.message, retry_after_s=0.0) if isinstance(error, LASTING) else error
        for each in rest:
            await self._ears.refused(each, same)

    async def _tell_dropped(self) -> None:
        while self._dropped:
            await self._ears.dropped(self._dropped.pop(0))

    async def _cancel_all(self) -> None:
        while self._cancel:
            await self._cancel_one(self._cancel.pop(0))
            self._pace.stir()

    async def _poll(self) -> None:
        states = await self._pilots.poll()
        now = time.monotonic()
        left_alone_s = self._pilots.left_alone_s
        if left_alone_s:
            self._pace.put_off(now, left_alone_s)
        else:
            seen = {pilot: _news(state) for pilot, state in states.items()}
            self._pace.polled(now, news=seen != self._seen, answered=not self._pilots.is_silent)
            self._seen = seen
            self._starts_s = [now + each.starts_in_s for each in states.values() if each.starts_in_s is not None]
        for pilot, state in states.items():
            await self._ears.seen(pilot, state)
        if self._submit:
            self._woken.set()  # nobody may be in doubt any more


def _news(state: JobState) -> tuple[str | None, ...]:
    """What of a state is news when it changes; its cause in words and the guess of its start are none."""
    return state.phase, state.end, state.host, str(state.restarts)


def bucket_of(site: Site) -> Bucket | None:
    """How often its scheduler may be asked to take a job, or when it would; None: as often as we like."""
    limits = site.scheduler
    if limits.kind == "local":
        return None
    return Bucket(limits.submit_per_min / 60.0, limits.submit_burst, time.monotonic())


def scheduling_of(
    site: Site,
    pilots: Pilots,
    ears: Ears,
    *,
    bucket: Bucket | None,
    poll_s: Callable[[], float],
    ends_s: Callable[[], Iterable[float]],
) -> Scheduling:
    """As the site wants it. That of site local serves nobody else, and is asked and told as often as we like.

    Args:
        site: The site.
        pilots: By which things are done.
        ears: Who hears what came of them.
        bucket: That of :func:`bucket_of`.
        poll_s: The shortest pause between two polls of this moment.
        ends_s: When pilots are expected to end.
    """
    if site.scheduler.kind == "local":
        return Scheduling(pilots, ears, PollPace(poll_s, 0.0))
    pace = PollPace(poll_s, site.scheduler.poll_max_s)
    return Scheduling(pilots, ears, pace, bucket=bucket, expected_s=ends_s)
