"""What waits for the batch scheduler: submissions, cancellations and polls, one after another in a task of its own.

A scheduler may take half a minute to say that it does not answer. Nothing else waits for that: what is decided comes
in here as a line of things to do, and what the scheduler says goes out by callbacks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hpcserve.cluster.seam import JobState
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.errors import HpcserveError, SchedulerError
from hpcserve.types import PilotId

_log = logging.getLogger(__name__)

SOON_S = 1.0
"""Between two polls that somebody asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Whom this part tells.

    Attributes:
        seen: The scheduler has said this about a pilot.
        refused: A pilot was not submitted, for this reason.
        dropped: A pilot was not submitted, since it was cancelled before its turn came.
    """

    seen: Callable[[PilotId, JobState], Awaitable[None]]
    refused: Callable[[PilotId, HpcserveError], Awaitable[None]]
    dropped: Callable[[PilotId], Awaitable[None]]


class Scheduling:
    """The line of things to do at the scheduler.

    Args:
        pilots: By which they are done.
        ears: Who hears what came of them.
        poll_s: How long from now until the next poll.
    """

    def __init__(self, pilots: Pilots, ears: Ears, poll_s: Callable[[], float]) -> None:
        self._pilots = pilots
        self._ears = ears
        self._poll_s = poll_s
        self._submit: list[PilotId] = []
        self._cancel: list[PilotId] = []
        self._polled_at = float("-inf")
        self._asked = False
        self._woken = asyncio.Event()

    def submit(self, pilot: PilotId) -> None:
        """Submits a pilot, soon."""
        self._submit.append(pilot)
        self._woken.set()

    def cancel(self, pilot: PilotId) -> None:
        """Cancels a pilot, soon."""
        self._cancel.append(pilot)
        self._woken.set()

    def look(self) -> None:
        """Something happened that the scheduler may know the reason of: it is polled soon."""
        self._asked = True
        self._woken.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            self._woken.clear()
            await self._submit_all()
            await self._cancel_all()
            if self._is_due():
                await self._poll()
            timeout_s = max(0.0, self._due_s() - time.monotonic()) if self._has_to_ask() else None
            try:
                # Not wait_for(): before Python 3.12 it swallows a cancellation that comes together with a call.
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def end_all(self, within_s: float) -> None:
        """Cancels every pilot and waits until all have ended, for so long at most; :meth:`run` has ended before."""
        try:
            async with asyncio.timeout(within_s):
                await self._end_all()
        except TimeoutError:
            for pilot, job in self._pilots.jobs.items():
                _log.warning("pilot %s (job %s) may go on: %s", pilot, job.name, job.state.cause or job.state.phase)

    async def _end_all(self) -> None:
        cancelled: set[PilotId] = set()
        self._pilots.retry_now()  # a user waits for it
        while self._pilots.jobs:
            for pilot, state in (await self._pilots.poll()).items():
                if state.phase == "ended":
                    await self._pilots.end(pilot, "the daemon was taken down")
                elif pilot not in cancelled and await self._is_cancelled(pilot):
                    cancelled.add(pilot)
            await asyncio.sleep(self._poll_s() / 2)

    async def _is_cancelled(self, pilot: PilotId) -> bool:
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
        pause_s = self._poll_s()
        return self._polled_at + (min(SOON_S, pause_s) if self._asked else pause_s)

    async def _submit_all(self) -> None:
        while self._submit:
            pilot = self._submit.pop(0)
            if pilot in self._cancel:
                self._cancel.remove(pilot)
                await self._ears.dropped(pilot)
                continue
            try:
                await self._pilots.submit(pilot)
            except HpcserveError as error:
                _log.warning("pilot %s was not submitted: %s", pilot, error)
                await self._ears.refused(pilot, error)

    async def _cancel_all(self) -> None:
        left: list[PilotId] = []
        while self._cancel:
            pilot = self._cancel.pop(0)
            try:
                await self._pilots.cancel(pilot)
            except SchedulerError as error:
                _log.warning("pilot %s is not cancelled yet: %s", pilot, error)
                left.append(pilot)
        self._cancel = left

    async def _poll(self) -> None:
        self._asked = False
        states = await self._pilots.poll()
        self._polled_at = time.monotonic()
        for pilot, state in states.items():
            await self._ears.seen(pilot, state)
