"""What became of the pilots: from the scheduler's word, the agent's exit code and its last output to the books.

What follows is decided in :mod:`hpcserve.core.pilotlife`. The lines of its output that show an end are taken before
anything else is done: for a pilot that has ended, or begins anew, they are not to be found any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from hpcserve.cluster.evidence import evidence
from hpcserve.cluster.seam import JobState
from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import Action
from hpcserve.core.losses import JOB_ENDS
from hpcserve.daemon.controller.agents import Agents
from hpcserve.daemon.controller.ends import pilot_end
from hpcserve.daemon.controller.jobs import Job
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.scheduling import LASTING
from hpcserve.errors import HpcserveError
from hpcserve.types import LossKind, PilotId
from hpcserve.wire import exits

_log = logging.getLogger(__name__)

ENDS_WITHIN_S = 5.0
"""What is put back into the queue, or ends, is not said to run any more so long after its processes were killed."""

LOST_PAUSE_S = 30.0
"""After a submission of which nothing came, as the scheduler did not answer."""


class Fates:
    """Hears what the scheduler says of the pilots, and enters it in the books.

    Args:
        pilots: The jobs.
        fleet: The books.
        agents: Who is let go when its pilot ends.
        act: Carries out what follows, with the lines that show why, and has everything looked at soon.
    """

    def __init__(
        self, pilots: Pilots, fleet: Fleet, agents: Agents, act: Callable[[Iterable[Action], str], Awaitable[None]]
    ) -> None:
        self._pilots = pilots
        self._fleet = fleet
        self._agents = agents
        self._act = act

    async def seen(self, pilot: PilotId, state: JobState) -> None:
        """The scheduler has said something about a pilot."""
        job = self._pilots.jobs.get(pilot)
        if job is None:
            return
        if state.phase == "ended" and self._is_contradicted(pilot, state):
            # Its agent's word that it runs is good enough to place others by.
            self._fleet.job_seen(pilot, "running", f"its agent is there, though {state.cause}")
            await self._act((), "")
        elif state.phase == "ended":
            if state.restarts > job.row.restarts:
                await self._requeued_unseen(pilot, state)
            await self._ended(pilot, state)
        else:
            if state.restarts > job.row.restarts:
                await self._requeued(pilot, state)
            waits_for = "" if state.phase == "running" else state.cause
            starts_s = None if state.starts_in_s is None else job.seen_s + state.starts_in_s
            self._fleet.job_seen(pilot, state.phase, waits_for, starts_s=starts_s)
            await self._act((), "")

    def _is_contradicted(self, pilot: PilotId, state: JobState) -> bool:
        """Whether a job is only missing in the scheduler's answers, while its agent is connected."""
        known = self._fleet.pilots.get(pilot)
        is_there = known is not None and known.reported and known.away_since_s is None and known.phase != "leaving"
        return is_there and state.end in ("?", "never started")

    async def _ended(self, pilot: PilotId, state: JobState) -> None:
        job = self._pilots.jobs[pilot]
        known = self._fleet.pilots.get(pilot)
        self._agents.lose(pilot, job.row.public_key)
        output = self._pilots.output(pilot, max(job.row.restarts, state.restarts))
        kind, cause = pilot_end(state, output)
        self._pilots.forget(pilot, cause)
        now = time.monotonic()
        # Nobody has let its last run in: that it waited for that in vain is no fault of pilots.
        not_let_in = state.restarts > job.row.restarts and state.exit_code == exits.NO_ENROLMENT
        if known is not None and not (known.reported or known.asked) and (job.name is None or not_let_in):
            # The scheduler has said nothing of it in time, so nothing is wrong with pilots, as far as anybody knows.
            pause_s = 0.0 if known.adopted else LOST_PAUSE_S
            actions = self._fleet.not_submitted(pilot, cause, now, lasting=False, pause_s=pause_s)
        else:
            actions = self._fleet.job_ended(pilot, cause, output, now, kind=kind)
        # Before anything is waited for: whoever misses the pilot sees what was lost with it.
        await self._act(actions, evidence(output)[1])
        await self._pilots.note_end(pilot, cause)

    async def _requeued_unseen(self, pilot: PilotId, state: JobState) -> None:
        """Between two polls a pilot has begun anew and ended, or while no daemon ran: its older run had an end, too."""
        kind, cause, lines = self._older_run(pilot, state)
        await self._act(self._fleet.requeued(pilot, cause, time.monotonic(), kind=kind), lines)

    async def _requeued(self, pilot: PilotId, state: JobState) -> None:
        """The scheduler begins a pilot anew, as another incarnation of it."""
        kind, cause, lines = self._older_run(pilot, state)
        try:
            key = await self._pilots.requeued(pilot, state.restarts)
        except HpcserveError as error:  # the next poll says the same again
            _log.warning("pilot %s was requeued, and its agent cannot be let in: %s", pilot, error)
            return
        self._agents.lose(pilot, key)
        await self._act(self._fleet.requeued(pilot, cause, time.monotonic(), kind=kind), lines)

    def _older_run(self, pilot: PilotId, state: JobState) -> tuple[LossKind, str, str]:
        """How the run of a requeued pilot ended that its replicas were in: in one term, in words, and what shows it."""
        job = self._pilots.jobs[pilot]
        run = job.row.restarts
        printed, lines = evidence(self._pilots.output(pilot, run))
        # The scheduler tells of the last one before the present run.
        said = JOB_ENDS.get(str(state.former_end), "") if state.restarts == run + 1 else ""
        kind: LossKind = said or printed or ("node failed" if self._was_without_agent(pilot, job) else "requeued")
        put_back = "its pilot was put back into the queue"
        return kind, put_back if kind == "requeued" else f"{put_back} ({kind})", lines

    def _was_without_agent(self, pilot: PilotId, job: Job) -> bool:
        """Whether a pilot's agent was gone while the scheduler took the job for running: so it is where a node fails.

        One that is killed for a requeue is gone, too, but then the job does not run for long any more.
        """
        known = self._fleet.pilots.get(pilot)
        away_since_s = None if known is None else known.away_since_s
        return away_since_s is not None and away_since_s + ENDS_WITHIN_S <= job.ran_s

    async def refused(self, pilot: PilotId, error: HpcserveError) -> None:
        """A pilot was not submitted."""
        lasting = isinstance(error, LASTING)
        now = time.monotonic()
        await self._act(
            self._fleet.not_submitted(pilot, error.message, now, lasting=lasting, pause_s=error.retry_after_s), ""
        )

    async def dropped(self, pilot: PilotId) -> None:
        """A pilot was cancelled before it was submitted."""
        await self._act(self._fleet.job_ended(pilot, "it was not wanted any more", "", time.monotonic()), "")

    def waits(self, pilot: PilotId, why: str) -> None:
        """A pilot that is to be submitted waits for its turn."""
        known = self._fleet.pilots.get(pilot)
        if known is not None:
            known.waits_for = why
