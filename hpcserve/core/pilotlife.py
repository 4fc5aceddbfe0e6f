"""The life of the pilots: what the scheduler and their agents said of them, and when the next one may be submitted.

* A pilot that is refused, that ends by itself or runs out of memory before a replica in it was ready, or whose agent
  never reached the daemon, counts against all pilots; when too many did in a row, they are given up: deployments
  without a replica fail, and the others wait for a while: until a pilot that was there works, the last replica of one
  has ended, or one that slept is asked again. Then one is tried at a time, until a replica in one is ready; what failed
  with the pilots is tried in each one that comes. One that was preempted, lost its node, used its walltime up or was
  cancelled from outside counts against nobody, but the next one waits a little longer each time, until a replica in one
  is ready;
* the scheduler not answering, or having no room at present, is no failure: it is asked again, later each time until it
  takes one.

How many pilots there should be is decided in :mod:`hpcserve.core.deployments`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from hpcserve.core.blame import Blame
from hpcserve.core.fleetbook import LOST_WITH_ITS_NODE, Action, FleetPilot, ReplicaSaid
from hpcserve.core.fleetview import PilotPhase, Policy
from hpcserve.core.replicalife import ReplicaLife
from hpcserve.core.rollout import FleetDeployment, PilotRestarts
from hpcserve.core.roster import Roster
from hpcserve.core.succession import Succession
from hpcserve.types import LossKind, PilotId

SILENT = "its agent has not reported yet; if that lasts, see: hpcserve doctor --pilot"
NO_PILOT = "no pilot job can be submitted"
BEFORE_REPORT = "end before their agents report"
CANCELS_S, CANCEL_PAUSE_S = 600.0, 60.0
"""When pilots are cancelled from outside twice within the first, the next is submitted after the second."""
GIVEN_UP_S = 600.0
"""After pilots were given up they are tried again after so long, where a deployment has some of its replicas."""
FIRST_REFUSED_S, LONGEST_REFUSED_S = 5.0, 60.0
"""The pauses after submissions that failed for no fault of the pilots', one after the other."""
FIRST_VAIN_S, LONGEST_VAIN_S = 1.0, 60.0
"""The pauses after pilots that lost their nodes before a replica in them was ready, one after the other."""


class PilotLife:
    """Keeps what is known of the pilots of a roster.

    Args:
        roster: All deployments, pilots and replicas.
        blame: Where it counts that pilots are given up.
        replicas: What becomes of the replicas of a pilot.
        policy: The site's limits.
        restarts: The back-off of pilots that end at once.
        succession: Told how long pilots wait in the queue.
    """

    def __init__(
        self,
        roster: Roster,
        blame: Blame,
        replicas: ReplicaLife,
        *,
        policy: Policy,
        restarts: PilotRestarts,
        succession: Succession,
    ) -> None:
        self._roster = roster
        self._blame = blame
        self._replicas = replicas
        self._policy = policy
        self._restarts = restarts
        self._succession = succession
        self._cancelled_s = -math.inf
        self._vain_s = FIRST_VAIN_S
        self._last_refused_s = -math.inf
        self._refused_s = 0.0
        self._told_s = -math.inf
        self._is_given_up = False
        self._given_up_until_s = 0.0
        self._pause_until_s = 0.0

    @property
    def submit_not_before_s(self) -> float:
        """No pilot is submitted before."""
        return max(self._pause_until_s, self._given_up_until_s)

    @property
    def submit_at_most(self) -> int | None:
        """So many may be submitted; None: all that there is a place for. Since they were given up: one at a time."""
        if not self._is_given_up:
            return None
        is_out = any(not each.proven and each.phase != "leaving" for each in self._roster.pilots.values())
        return 0 if is_out else 1

    def seen(self, pilot: PilotId, phase: PilotPhase, waits_for: str, starts_s: float | None) -> None:
        """The scheduler says that a pilot is queued, runs or is suspended, or (``unknown``) nothing about it."""
        known = self._roster.pilots.get(pilot)
        if known is None:
            return
        known.starts_s = starts_s
        known.waits_for = SILENT if phase == "running" and not known.reported else waits_for
        if phase != "unknown" and self._is_after_refusal(known):
            self._refused_s = 0.0
        if phase != "unknown" and known.submitted_s is not None and known.submitted_s > self._told_s:
            self._came_for_all()  # the scheduler has taken one since it was told that it takes none
        if known.phase != "leaving":
            known.phase = phase

    def not_submitted(
        self, pilot: PilotId, cause: str, now: float, *, lasting: bool, pause_s: float | None
    ) -> Iterable[Action]:
        """A pilot was not submitted; see :meth:`hpcserve.core.fleet.Fleet.not_submitted`."""
        known = self._roster.pilots.pop(pilot, None)
        if known is None:
            return
        reason = f"{NO_PILOT}: {cause}"
        if lasting:
            yield from self._failed(reason, "", now)
            return
        again_s = now + (0.0 if pause_s == 0.0 else max(self._refused(known, now), pause_s or 0.0))
        self._pause_until_s = max(self._pause_until_s, again_s)
        self._tell_who_waits(reason, now)

    def _refused(self, pilot: FleetPilot, now: float) -> float:
        """The pause after a submission that failed: longer than the one before it, if it came after that."""
        if self._is_after_refusal(pilot):
            self._refused_s = min(LONGEST_REFUSED_S, 2 * self._refused_s)
        self._refused_s = max(FIRST_REFUSED_S, self._refused_s)  # the first one after one was taken
        self._last_refused_s = now
        return self._refused_s

    def _is_after_refusal(self, pilot: FleetPilot) -> bool:
        """Of several that were submitted at once the first one counts."""
        return pilot.submitted_s is not None and pilot.submitted_s > self._last_refused_s

    def _tell_who_waits(self, reason: str, now: float) -> None:
        self._told_s = now
        here = Counter(replica.deployment for replica in self._roster.alive())
        for deployment in self._roster.deployments.values():
            if here[deployment.name] < deployment.due and not deployment.failed:
                deployment.reason = reason

    def ended(self, pilot: PilotId, cause: str, output: str, now: float, kind: LossKind) -> Iterable[Action]:
        """A pilot has ended; see :meth:`hpcserve.core.fleet.Fleet.job_ended`."""
        known = self._roster.pilots.pop(pilot, None)
        if known is None:
            return
        yield from self._replicas.lose(known, kind, cause, now)
        if known.asked:
            return
        if kind == "cancelled":
            self._cancelled(pilot, cause, now)
            return
        fault = _fault(known, kind)
        if fault:
            reason = f"pilot jobs {fault}, the last one, {pilot}, so: {cause}; see: hpcserve logs {pilot}"
            yield from self._failed(reason, output, now)
        elif not known.proven:
            self._pause_until_s = max(self._pause_until_s, now + self._vain_s)
            self._vain_s = min(LONGEST_VAIN_S, 2 * self._vain_s)

    def tries_for_who_has_none(self, now: float) -> bool:
        """Whether, while pilots are given up, they are tried now: a deployment that is due got no replica.

        It has lost its last one, or somebody asks for what slept. Should the pilot fail, so does that deployment.
        """
        if now >= self._given_up_until_s:
            return False
        here = Counter(replica.deployment for replica in self._roster.alive())
        wanted = [each for each in self._roster.deployments.values() if each.target is not None]
        if not any(each.due and not here[each.name] and now >= each.not_before_s for each in wanted):
            return False
        self._given_up_until_s = now
        return True

    def forgive(self) -> None:
        """Somebody wants something anew: pilots that were given up are tried as if none had failed."""
        self._restarts.forgive()
        self._refused_s = 0.0
        self._is_given_up = False
        self._given_up_until_s = self._pause_until_s = 0.0

    def _cancelled(self, pilot: PilotId, cause: str, now: float) -> None:
        if now < self._cancelled_s + CANCELS_S:
            self._pause_until_s = now + CANCEL_PAUSE_S
            self._tell_who_waits(
                f"{NO_PILOT} for {CANCEL_PAUSE_S:g} s, since pilots are cancelled from outside, the last one, {pilot}, "
                f"so: {cause}; see: hpcserve logs {pilot}",
                now,
            )
        self._cancelled_s = now

    def _failed(self, reason: str, output: str, now: float) -> Iterable[Action]:
        again_s = self._restarts.failed(now)
        if again_s is not None:
            self._pause_until_s = again_s
            return
        self._is_given_up = True
        self._given_up_until_s = now + GIVEN_UP_S
        self._told_s = now
        yield from self._blame.pilots_failed(reason, output, self._given_up_until_s)

    def requeued(self, pilot: PilotId, cause: str, now: float, kind: LossKind) -> Iterable[Action]:
        """The scheduler has put a pilot back into the queue: none of its replicas lives any more, or counts."""
        known = self._roster.pilots.get(pilot)
        if known is None:
            return
        yield from self._replicas.lose(known, kind, cause, now)
        self._roster.pilots[pilot] = FleetPilot(
            pilot=pilot,
            slots=known.full_slots or self._policy.slots,
            full_slots=known.full_slots,
            walltime_s=known.walltime_s,
            idle_since_s=now,
            phase="leaving" if known.asked else "queued",  # the agent's own reason ended with it
            asked=known.asked,  # not adopted: what begins now has never spoken to an earlier controller
        )

    def reported(
        self,
        pilot: PilotId,
        said: Iterable[ReplicaSaid],
        *,
        ends_s: float,
        leaving: bool,
        now: float,
        slots: int | None,
        lost_nodes: Iterable[str],
        host: str,
    ) -> Iterable[Action]:
        """An agent's report came; see :meth:`hpcserve.core.fleet.Fleet.reported`."""
        known = self._roster.pilots.get(pilot)
        if known is None:
            return
        known.said = tuple(said)
        # A report tells how much is left when it is sent: heard late, it tells of a later end than there is.
        known.ends_s = ends_s if known.ends_s is None else min(known.ends_s, ends_s)
        known.slots = known.slots if slots is None else slots
        known.lost_nodes = tuple(sorted({*known.lost_nodes, *lost_nodes}))
        known.away_since_s = None
        known.host = host
        known.waits_for = ""
        if not known.reported:
            self._first_report(known, now)
        if leaving:
            known.phase = "leaving"
        elif known.phase not in ("leaving", "unknown"):  # while the scheduler is silent nothing may be submitted
            known.phase = "running"
        was_proven = known.proven
        yield from self._replicas.hear(known, now)
        yield from self._replicas.explain(known)
        if known.proven and not was_proven:
            self._vain_s = FIRST_VAIN_S
            self._is_given_up = False
            self._given_up_until_s = 0.0
            self._try_what_failed(now)

    def _first_report(self, pilot: FleetPilot, now: float) -> None:
        pilot.reported = True
        if pilot.submitted_s is not None:
            self._succession.waited(now - pilot.submitted_s)
        self._came_for_all()
        self._try_what_failed(now)

    def _try_what_failed(self, now: float) -> None:
        """A pilot is there: what failed with others is tried in it, and need not wait until its time."""
        for deployment in self._roster.deployments.values():
            if deployment.pilots_ended:
                deployment.again_s = now

    def _came_for_all(self) -> None:
        for deployment in self._roster.deployments.values():
            self.came_for(deployment)

    @staticmethod
    def came_for(deployment: FleetDeployment) -> None:
        """A pilot has room for a deployment, or may have: it lacks none any more."""
        if not deployment.failed and deployment.reason.startswith(NO_PILOT):
            deployment.reason = ""

    def away(self, pilot: PilotId, now: float, for_s: float) -> None:
        """The agent of a pilot cannot be reached, and could not for so long.

        Of a pilot of this controller whose agent has not reported that is no news. That of an adopted one was let in by
        an earlier controller, or the broker would not miss it.
        """
        known = self._roster.pilots.get(pilot)
        if known is not None and (known.reported or known.adopted) and known.away_since_s is None:
            known.away_since_s = now - for_s
            self._replicas.out_of_sight(known, now)


def _fault(pilot: FleetPilot, kind: LossKind) -> str:
    """What is wrong with pilots if one ends like this, in words; empty if nothing is."""
    if pilot.proven or pilot.phase == "leaving":  # one that leaves has told its reason, its walltime for example
        return ""
    if kind == "out of memory":
        return "run out of memory before a replica is ready"
    if pilot.adopted:
        return ""  # nobody here knows how it began, and what was ready in it: it may have ended in peace
    if kind == "unreachable" and not pilot.reported:
        return BEFORE_REPORT  # that it never reached us is its own fault, or ours
    if kind in LOST_WITH_ITS_NODE:
        return ""
    return "end before a replica in them is ready" if pilot.reported else BEFORE_REPORT
