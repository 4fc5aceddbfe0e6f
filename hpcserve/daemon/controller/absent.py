"""Agents and replicas that the broker misses: what that is news of, and whom it has look.

What follows from an absence is decided in :mod:`hpcserve.core.pilotlife` and :mod:`hpcserve.core.replicalife`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hpcserve.core.fleet import Fleet
from hpcserve.types import PilotId, ReplicaId
from hpcserve.wire import hub

_log = logging.getLogger(__name__)


class Absent:
    """Hears of absences, and enters them in the books.

    Args:
        fleet: The books.
        look: Has the scheduler asked soon.
        change: Has what follows looked at soon.
    """

    def __init__(self, fleet: Fleet, look: Callable[[], None], change: Callable[[], None]) -> None:
        self._fleet = fleet
        self._look = look
        self._change = change

    def hear(self, message: hub.Away) -> None:
        """An agent or a replica has had no connection for long. What became of its pilot the scheduler may know.

        The broker says so again and again, while that lasts; the scheduler is not asked so often.
        """
        is_news = self._is_news(message)
        is_kept = self._is_kept(message)
        kept = f", and its agent sees that it lives: it is replaced after {self._fleet.policy.orphan_s:g} s"
        _log.log(
            logging.WARNING if is_news else logging.DEBUG,
            "%s %s has had no connection for %.1f s%s",
            message.role,
            message.subject,
            message.for_s,
            kept if is_kept else "",
        )
        if is_news and not is_kept:
            self._look()
        self._change()

    def _is_news(self, message: hub.Away) -> bool:
        """Enters an absence in the books; False if it stood there, or nobody is missed."""
        now = time.monotonic()
        if message.role == "agent":
            pilot = self._fleet.pilots.get(PilotId(message.subject))
            was_away = pilot is None or pilot.away_since_s is not None
            self._fleet.away(PilotId(message.subject), now, message.for_s)
            return not was_away and pilot is not None and pilot.away_since_s is not None
        cause = f"it could not be reached for {message.for_s:.1f} s"
        return self._fleet.unreachable(ReplicaId(message.subject), cause, now, for_s=message.for_s)

    def _is_kept(self, message: hub.Away) -> bool:
        """Whether a replica that is away is not given up yet: it may be in a call."""
        replica = self._fleet.replicas.get(ReplicaId(message.subject)) if message.role == "replica" else None
        return replica is not None and not replica.ended
