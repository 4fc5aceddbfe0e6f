"""Who had a connection to this broker and has none any more, and from when on the controller is told so.

A broken connection says nothing of the process behind it: it comes back within seconds, as after a brief fault of the
network. What stays away for ``unreachable_s`` is reported, and again every ``AGAIN_S``, so that a new controller hears
of it too. What follows is decided there.

Two absences prove nothing, and are not reported:

- that of a replica which has not been connected to this broker: it may be in a long call, begun under an earlier one,
  and connects between its calls;
- that of a replica whose connection ended while this broker stood still, or shortly after: its own heartbeats had run
  out, and it too may be in a long call.

An agent comes back at once in both cases, and has its replicas' processes in its sight. So one that a controller has
let in is expected within the recovery's grace.
"""

from __future__ import annotations

from hpcserve.core import actions as act
from hpcserve.core.ledger import NEVER

AGENT, REPLICA = "agent", "replica"
AGAIN_S = 2.0
STILL_S = 2.5
"""Time is told once a second at least: a longer pause means that this process did not run."""
SHAKEN_S = 8.0
"""So long after such a pause connections may end because of it: a heartbeat and its time-out, on either side."""

Subject = tuple[str, str]
"""Role and id."""


class Absences:
    """Those who are away from one broker.

    Args:
        unreachable_s: Who has been away for so long is reported.
        grace_s: An agent that was let in, and has not been connected yet, has so long to come.
        now: Monotonic seconds.
    """

    def __init__(self, unreachable_s: float, grace_s: float, now: float) -> None:
        self._unreachable_s = unreachable_s
        self._grace_s = grace_s
        self._told_time_at = now
        self._shaken_until = -NEVER
        self._since: dict[Subject, float] = {}
        self._report_at: dict[Subject, float] = {}

    def gone(self, role: str, id: str, now: float) -> None:
        """A connection is not there any more."""
        self._feel(now)
        if role != REPLICA or now >= self._shaken_until:
            self._miss((role, id), now, self._unreachable_s)

    def expected(self, id: str, now: float) -> None:
        """An agent that is not connected was let in."""
        self._miss((AGENT, id), now, self._grace_s)

    def over(self, role: str, id: str) -> None:
        """It is connected, or will not be any more."""
        self._since.pop((role, id), None)
        self._report_at.pop((role, id), None)

    def tick(self, now: float) -> list[act.ReportAway]:
        """Who is to be reported now. To be called once a second at least."""
        self._feel(now)
        self._told_time_at = now
        due = [subject for subject, at in self._report_at.items() if at <= now]
        self._report_at.update(dict.fromkeys(due, now + AGAIN_S))
        return [act.ReportAway(id, role, now - self._since[role, id]) for role, id in due]

    def next_report(self) -> float:
        """When the next one is due, infinite without any."""
        return min(self._report_at.values(), default=NEVER)

    def _miss(self, subject: Subject, now: float, patience_s: float) -> None:
        if self._since.setdefault(subject, now) == now:
            self._report_at[subject] = now + patience_s

    def _feel(self, now: float) -> None:
        """While this process stood still nobody could come back: all have their time anew."""
        if now - self._told_time_at > STILL_S:
            self._told_time_at = now
            self._shaken_until = now + SHAKEN_S
            again_at = now + self._unreachable_s
            self._report_at = {subject: max(at, again_at) for subject, at in self._report_at.items()}
