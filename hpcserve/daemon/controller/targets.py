"""What the log says of how many replicas each deployment is to have: each change once, and why. Decides nothing."""

from __future__ import annotations

import logging

from hpcserve.core.fleet import Fleet
from hpcserve.core.outlook import reason_in_words
from hpcserve.core.spans import counted
from hpcserve.types import DeploymentName

_log = logging.getLogger(__name__)


class Targets:
    """Tells the log of changes.

    Args:
        fleet: The books.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._told: dict[DeploymentName, int] = {}

    def note(self) -> None:
        """Says what is new since the last time."""
        for name, known in self._fleet.deployments.items():
            before = self._told.get(name)
            if known.due == before:
                continue
            now = counted(known.due, "replica") if known.due else "no replica"
            was = "" if before is None else f" instead of {before}"
            _log.info("deployment %s: %s%s, because %s", name, now, was, reason_in_words(known))
            self._told[name] = known.due
        for gone in self._told.keys() - self._fleet.deployments.keys():
            del self._told[gone]
            _log.info("deployment %s is not wanted any more", gone)
