"""What a result on its way to a collection wants of its owner: another login, or that they submit it themselves.

A client that was told who agrees to that sees to it by itself. Otherwise LoginRequired is raised, and ``hpcserve
transfers --login`` does it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from hpcserve.client.sending import AWAY_S, patiently
from hpcserve.core.delivery import ENDED
from hpcserve.errors import Cancelled, HpcserveError, LoginRequired
from hpcserve.wire.admin import Admin, AskTransfers, TransferList

if TYPE_CHECKING:
    from hpcserve.client.login import Asks
    from hpcserve.client.sending import Ask, Journey
    from hpcserve.client.services import Service
    from hpcserve.client.submitting import Agrees, Submitter

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Consents:
    """Of one client. One thing is seen to at a time, so that results that want the same ask for it once.

    Args:
        ask: Makes calls at the service, from a thread that may wait.
        service: Where to log in.
        asks: Who can log in; None: nobody, but a program by its secret.
        agrees: Asked before a transfer is submitted that Globus takes from its owner alone.
    """

    def __init__(self, ask: Ask, service: Service, *, asks: Asks | None, agrees: Agrees) -> None:
        self._ask = ask
        self._service = service
        self._asks = asks
        self._agrees = agrees
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._stopped = False
        self._own = contextlib.ExitStack()
        self._submitter: Submitter | None = None
        self._since = 0.0
        """When the one that is seen to began to wait."""
        self._refused: dict[str, float] = {}
        """What was shown and not agreed to, and when."""
        self._logins: list[tuple[object, float, HpcserveError | None]] = []
        """What was wanted, when somebody had tried to log in so, and why that failed."""

    def see_to(self, wanted: LoginRequired, journey: Journey) -> None:
        """Waits until somebody has logged in, or the transfer is submitted. It goes on, and may want more.

        Args:
            wanted: What it waits for.
            journey: Of the result.

        Raises:
            LoginRequired: There is nobody who could.
            Cancelled: The client is closed.
            HpcserveError: As :meth:`hpcserve.client.submitting.Submitter.submit`, and logins; or ``asks`` or
                ``agrees`` has raised something.
        """
        last = journey.last
        if last is None:
            raise wanted
        try:
            with self._lock:
                self._since = journey.waits_since
                if last.state == "offered":
                    self._own_submitter().submit(last.id, journey.asked.to)
                else:
                    self._log_in(wanted)
            if last.state != "offered":
                self._go_on(journey, last.id)
        except HpcserveError:
            raise
        except Exception as error:
            raise HpcserveError(f"transfer {last.id} waits, since asks or agrees has raised {error!r}") from error
        finally:
            if self._stopped:
                self._log_out()

    def stop(self) -> None:
        """Nothing is begun any more."""
        self._stopped = True

    def close(self) -> None:
        """The login that transfers were submitted with ends, unless this is a forked child, whose it is not."""
        self.stop()
        if os.getpid() == self._process:
            self._log_out()

    def _log_in(self, wanted: LoginRequired) -> None:
        """Unless somebody has, for another result, since this one waits."""
        for detail, at, failed in self._logins:
            if detail == wanted.detail and at > self._since:
                if failed is None:
                    return
                raise type(failed)(failed.message, detail=failed.detail)
        self._check_open()
        try:
            log_in_for(self._service, wanted, self._asks)
        except HpcserveError as error:
            if error is not wanted:
                self._note(wanted, error)
            raise
        self._note(wanted, None)

    def _note(self, wanted: LoginRequired, failed: HpcserveError | None) -> None:
        others = [each for each in self._logins if each[0] != wanted.detail]
        self._logins = [*others, (wanted.detail, time.monotonic(), failed)]

    def _go_on(self, journey: Journey, id: str) -> None:
        """Tells the service that somebody has logged in: what is asked for twice is sent once, but not what is over."""
        [view] = patiently(self._call, "transfers", AskTransfers(ids=(id,)), TransferList, for_s=AWAY_S).transfers
        if view.state not in ENDED:
            patiently(self._call, "deliver", journey.asked, TransferList, for_s=AWAY_S)

    def _own_submitter(self) -> Submitter:
        from hpcserve.client.submitting import Submitter

        self._check_open()
        if self._submitter is None:
            made = Submitter(self._call, self._asks, self._agreed, _log.warning)
            self._submitter = self._own.enter_context(made)
        return self._submitter

    def _agreed(self, told: str, *, is_named: bool) -> bool:
        """A no to several that go together is one to each of those that waited for it."""
        if self._refused.get(told, 0.0) > self._since:
            return False
        agreed = self._agrees(told, is_named=is_named) is True
        if not agreed:
            self._refused[told] = time.monotonic()
        return agreed and not self._stopped

    def _call(self, verb: str, arguments: Admin, answer: type[T]) -> T:
        self._check_open()
        return self._ask(verb, arguments, answer)

    def _check_open(self) -> None:
        if self._stopped:
            raise Cancelled("the client was closed; what is on its way to a collection goes on: hpcserve transfers")

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
    from hpcserve import config
    from hpcserve.client.arrival import Arrival
    from hpcserve.core.demands import without_session

    is_program = config.client_credentials() is not None
    if not wanted.detail or (asks is None and not is_program):
        raise wanted
    with Arrival(service) as arrival:
        arrival.try_kept()
        wanted = without_session(wanted) if is_program else wanted
        arrival.log_in(wanted, asks, renews=True, same_owner=False)
