"""The end of a replica whose request never ends: the kernel's timer, which asks nobody.

While a servable hangs, Python does not run here: this replica neither reads its socket nor connects to a new
broker, and a broker that was not there when the request was given out knows nothing of it. So the replica has
itself killed by SIGALRM, a while after the broker would have had it killed by its agent. What every thread was doing
is written to the log.

A servable that needs SIGALRM or ``ITIMER_REAL`` for itself takes this away.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
import time

from hpcserve.core.ledger import NEVER

AFTER_S = 3.0  # so long the broker and the agent have to be the first
SLACK_S = 1.0  # setting the timer for each request anew would cost a system call
IDLE_MS = 1000  # without a request, until the timer is taken off


class Alarm:
    """Watches the request that runs. ``set_for`` is when it goes off, in monotonic seconds."""

    def __init__(self, hang_grace_s: float) -> None:
        self.set_for = NEVER
        self._latest = NEVER
        self._grace_s = hang_grace_s + AFTER_S
        self._lock = threading.Lock()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)

    def watch(self, deadline: float) -> None:
        """A request with this deadline begins; NEVER: it may take as long as it likes."""
        latest = min(deadline + self._grace_s, self._latest)
        if not latest <= self.set_for <= latest + SLACK_S:
            self._set(latest + SLACK_S)

    def end_within(self, seconds: float) -> None:
        """Goes off then, whatever runs. Any thread may say so."""
        with self._lock:
            self._latest = min(self._latest, time.monotonic() + seconds)
        self._set(self.set_for)

    def rest(self) -> None:
        """Nothing has run for a while."""
        if self.set_for != self._latest:
            self._set(self._latest)

    def _set(self, at: float) -> None:
        with self._lock:
            self.set_for = at = min(at, self._latest)
            signal.setitimer(signal.ITIMER_REAL, 0.0 if at == NEVER else max(0.001, at - time.monotonic()))
