"""The replicas that were lost of late, and the line in each one's log that says why. The cause is core's to find."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from pathlib import Path

from hpcserve.core.losses import Loss, loss_in_words
from hpcserve.wire.admin import LossView

_log = logging.getLogger(__name__)

KEPT = 50


class Losses:
    """The last :data:`KEPT` losses.

    Args:
        logs: The directory of the logs.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._views: deque[LossView] = deque(maxlen=KEPT)

    @property
    def views(self) -> tuple[LossView, ...]:
        """As ``status`` shows them, the last one last."""
        return tuple(self._views)

    def note(self, loss: Loss, evidence: str) -> None:
        """Keeps a loss. Where its agent could not, the end of the replica's log says why, with what shows it.

        Args:
            loss: What was lost.
            evidence: The lines of the pilot's output that show it.
        """
        if loss.drained:
            _log.info("replica %s of pilot %s has drained: %s: %s", loss.replica, loss.pilot, loss.kind, loss.cause)
        else:
            _log.warning("replica %s of pilot %s is lost: %s: %s", loss.replica, loss.pilot, loss.kind, loss.cause)
        self._views.append(
            LossView(
                replica=loss.replica,
                deployment=loss.deployment,
                pilot=loss.pilot,
                kind=loss.kind,
                cause=loss.cause,
                at_s=time.time(),
                drained=loss.drained,
            )
        )
        if not loss.told:
            self._tell(loss, evidence)

    def _tell(self, loss: Loss, evidence: str) -> None:
        became = "has drained" if loss.drained else "was lost"
        lines = [f"[this replica {became}: {loss_in_words(loss.kind, loss.cause)}]"]
        lines += [f"[pilot {loss.pilot} printed: {line}]" for line in evidence.splitlines() if line.strip()]
        try:
            file = os.open(self._logs / f"{loss.replica}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, ("\n".join(lines) + "\n").encode())
            finally:
                os.close(file)
        except OSError as error:
            _log.warning("why replica %s was lost does not stand in its log: %s", loss.replica, error)
