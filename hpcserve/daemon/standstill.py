"""Children that somebody has stopped (SIGSTOP, as some login nodes' watchdogs send): the supervisor lets them go on.

A stopped process keeps its connections and answers nobody; nothing else notices it, since it has not ended. A pause
may be meant, to look at something: so it lasts for a while, unless the daemon goes down and waits for that process.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable

from hpcserve.cluster.processes import is_stopped
from hpcserve.daemon.child import Child

_log = logging.getLogger(__name__)


class Standstill:
    """What the supervisor has seen of it.

    Args:
        patience_s: How long a child may be stopped.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[int, float] = {}

    def look(self, children: Iterable[Child], now: float, *, at_once: bool) -> None:
        """Continues those that have been stopped for too long, or with ``at_once`` all."""
        stopped = {child.pid: child for child in children if child.pid is not None and is_stopped(child.pid)}
        for pid, child in stopped.items():
            if pid not in self._since:
                _log.warning(
                    "%s (pid %d) was stopped by somebody; to let it go on: kill -CONT %d", child.name, pid, pid
                )
        self._since = {pid: self._since.get(pid, now) for pid in stopped}
        for pid, child in stopped.items():
            if at_once or now - self._since[pid] >= self._patience_s:
                _log.warning("%s (pid %d), which was stopped, is told to go on", child.name, pid)
                child.signal(signal.SIGCONT)
                del self._since[pid]
