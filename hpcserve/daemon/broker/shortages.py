"""What batches there was no memory for, so that a group of ranks was lost: its successors are not to form them again.

A replica that lives remembers by itself. This is kept for as long as the broker runs.
"""

from __future__ import annotations

import msgspec

from hpcserve.types import DeploymentName
from hpcserve.wire.messages import Fits, Tune

MOST = 64
"""Of so many kinds of batches, those that were told of last."""


class Shortages:
    """What the replicas of each deployment have told."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[DeploymentName, Fits]] = {}

    def note(self, deployment: DeploymentName, fits: Fits) -> None:
        """A replica of the deployment has found that there is memory for so much."""
        kind = (deployment, fits.version, fits.method, fits.inputs)
        _, before = self._known.pop(kind, (deployment, fits))
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[kind] = deployment, min(before, fits, key=lambda each: each.samples)

    def told_with(self, tune: Tune, deployment: DeploymentName) -> Tune:
        """What a replica of the deployment is told, with what is known here."""
        if not self._known:
            return tune
        fits = tuple(each for name, each in self._known.values() if name == deployment)
        return msgspec.structs.replace(tune, fits=fits)
