"""HELLO again before a login ends, beside the connection: its calls go on as if nothing were.

A thread of its own, which there is only where a service lets in for a time. What fails is tried again until that time
is over; then the daemon ends the connection, and whoever dials anew says what is wrong.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hpcserve.errors import HpcserveError

_log = logging.getLogger(__name__)

PART = 0.7
"""After so much of the time that was granted."""
AGAIN = 0.25
"""What fails is tried again after so much of what is left of it."""
LEAST_S = 0.2


class Renewal:
    """Keeps one client in.

    Args:
        hello: Says HELLO with a newer token; for how many seconds that lets in, or None for ever.
    """

    def __init__(self, hello: Callable[[], float | None]) -> None:
        self._hello = hello
        self._changed = threading.Condition()
        self._over = False
        self._due = self._ends = float("inf")
        self._thread: threading.Thread | None = None

    def welcomed(self, expires_in_s: float | None) -> None:
        """Somebody has said HELLO, and was let in for so many seconds; None: for ever."""
        with self._changed:
            if self._over:
                return
            self._until(expires_in_s)
            self._changed.notify()
            if expires_in_s is not None and self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="hpcserve-renewal", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """No more, and no thread of ours uses a socket when this returns."""
        with self._changed:
            self._over = True
            self._changed.notify()
        if self._thread not in (None, threading.current_thread()):
            assert self._thread is not None
            self._thread.join()

    def _until(self, expires_in_s: float | None) -> None:
        now = time.monotonic()
        self._ends = float("inf") if expires_in_s is None else now + expires_in_s
        self._due = self._ends if expires_in_s is None else now + max(LEAST_S, PART * expires_in_s)

    def _keep(self) -> None:
        while self._wait():
            try:
                expires_in_s = self._hello()
            except HpcserveError as error:
                _log.info("the login at the service is not renewed yet: %s", error)
                self._later()
            except Exception:  # noqa: BLE001 (whatever it is, the calls go on as long as they may)
                _log.exception("the login at the service cannot be renewed")
                self._later()
            else:
                with self._changed:
                    self._until(expires_in_s)

    def _wait(self) -> bool:
        """Returns when it is time; False: never again."""
        with self._changed:
            while not self._over and (left := self._due - time.monotonic()) > 0:
                self._changed.wait(None if left == float("inf") else min(left, threading.TIMEOUT_MAX))
            return not self._over

    def _later(self) -> None:
        with self._changed:
            left = self._ends - time.monotonic()
            self._due = time.monotonic() + max(LEAST_S, AGAIN * left) if left > 0 else float("inf")
