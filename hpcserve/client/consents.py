"""What a result on its way to a collection wants of its owner: another login, or that they submit it themselves.

A client that was told who agrees to that sees to it by itself, in the thread that brings the result. Otherwise
LoginRequired is raised, and ``hpcserve transfers --login`` does it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from hpcserve.errors import HpcserveError, LoginRequired

if TYPE_CHECKING:
    from hpcserve.client.login import Asks
    from hpcserve.client.sending import Ask, Journey
    from hpcserve.client.services import Service
    from hpcserve.client.submitting import Agrees, Submitter

_log = logging.getLogger(__name__)


class Consents:
    """Of one client. One thing is seen to at a time, so that results that want the same login ask for it once.

    Args:
        ask: Makes calls at the service, from a thread that may wait.
        service: Where to log in.
        asks: Who can log in; None: nobody, but a program by its secret.
        agrees: Asked before a transfer is submitted that Globus takes from its owner alone.
    """

    def __init__(self, ask: Ask, service: Service, asks: Asks | None, agrees: Agrees) -> None:
        self._ask = ask
        self._service = service
        self._asks = asks
        self._agrees = agrees
        self._lock = threading.Lock()
        self._closed = False
        self._own = contextlib.ExitStack()
        self._submitter: Submitter | None = None
        self._logged_in_at = 0.0
        self._failed: HpcserveError | None = None

    def see_to(self, wanted: LoginRequired, journey: Journey) -> None:
        """Waits until somebody has logged in, or the transfer is submitted. It may want more after that.

        Args:
            wanted: What it waits for.
            journey: Of the result.

        Raises:
            LoginRequired: There is nobody who could, or the client is closed.
            HpcserveError: As :meth:`hpcserve.client.submitting.Submitter.submit`, and logins.
        """
        if journey.last is None:
            raise wanted
        try:
            with self._lock:
                if self._closed:
                    raise wanted
                if journey.last.state == "offered":
                    self._own_submitter().submit(journey.last.id, journey.asked.to)
                elif self._logged_in_at > journey.waits_since:  # for another result, since this one waits
                    if self._failed is not None:
                        raise self._failed
                else:
                    self._log_in(wanted)
        finally:
            if self._closed:
                self._log_out()

    def close(self) -> None:
        """Nothing is seen to any more, and the login that transfers were submitted with ends."""
        self._closed = True
        self._log_out()

    def _log_in(self, wanted: LoginRequired) -> None:
        self._failed = None
        try:
            log_in_for(self._service, wanted, self._asks)
        except HpcserveError as error:
            self._failed = error
            raise
        finally:
            self._logged_in_at = time.monotonic()

    def _own_submitter(self) -> Submitter:
        from hpcserve.client.submitting import Submitter

        if self._submitter is None:
            made = Submitter(self._ask, self._asks, self._agrees, _log.info)
            self._submitter = self._own.enter_context(made)
        return self._submitter

    def _log_out(self) -> None:
        """Unless something is being seen to: whoever does that comes here afterwards."""
        if self._lock.acquire(blocking=False):
            try:
                self._own.close()
            finally:
                self._lock.release()


def log_in_for(service: str | Service | None, wanted: LoginRequired, asks: Asks | None) -> None:
    """Has somebody log in as a transfer needs it; open clients of theirs are in by that login, too.

    A program logs in by its secret, which is its consent; it has no session to prove more by. What wants one is
    refused once more after that, and offered: then its own token for Transfer may do.

    Raises:
        LoginRequired: Nobody can log in, or the service did not say which login it needs.
        HpcserveError: As for ``hpcserve login``.
    """
    from hpcserve.client.arrival import Arrival
    from hpcserve.core.demands import without_session

    with Arrival(service) as arrival:
        if not wanted.detail or (asks is None and not arrival.is_program):
            raise wanted
        arrival.try_kept()
        wanted = without_session(wanted) if arrival.is_program else wanted
        arrival.log_in(wanted, asks, renews=True, same_owner=False)
