"""Submits transfers that Globus takes from their owner alone, by a login for Transfer that no service gets.

The service has a submission id for each, of which Globus makes one task, whoever submits with it and however often. It
keeps the id while we may be about to submit; so we ask for it anew when that took long, as a login does. If we die, or
do not hear the answer, it finds the task. The login stays in this process, and ends by itself.

A service is not trusted with what is submitted: it has to go to the collection that the user named, and all of it is
shown first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from hpcserve import config
from hpcserve.client.login import Asks
from hpcserve.client.sending import AWAY_S, LONGEST_LOOK_S, Ask, patiently
from hpcserve.core.delivery import End, Trouble
from hpcserve.core.demands import Demand, Parameters, own_demand
from hpcserve.core.destinations import destination, uri_of
from hpcserve.errors import (
    AuthenticationError,
    Conflict,
    LoginRequired,
    PermissionDenied,
    ProtocolError,
    ServiceUnavailable,
    TransferFailed,
)
from hpcserve.wire.admin import AskSubmission, Submission, Submitted, TransferList

if TYPE_CHECKING:
    from hpcserve.auth.tokens import Kept

MOST_SHOWN = 10
MOST_LOGINS = 5
LONGEST_DEADLINE_S = 366 * 86_400.0
FOR_TRANSFER = "this login lets hpcserve submit it for you, here"
NO_SERVICE = ""


class Submitter:
    """Has one login for all that it submits.

    Args:
        ask: Makes calls at the service.
        asks: Who can log in; None: nobody, but a program by its secret.
        says: Told what is about to be submitted.
    """

    def __init__(self, ask: Ask, asks: Asks | None, says: Callable[[str], None]) -> None:
        self._ask = ask
        self._asks = asks
        self._says = says
        self._program = config.client_credentials()
        self._demand: Demand | None = None
        self._login: Kept | None = None
        self._logins = 0

    def submit(self, id: str, to: str) -> None:
        """Submits a transfer that is offered. One that is not, or no longer, is left as it is.

        Args:
            id: Of the transfer.
            to: Where the user wants the result, as a URI.

        Raises:
            LoginRequired: Nobody can log in.
            PermissionDenied: The service would have something else submitted.
            TransferFailed: Globus does not take it from its owner either.
            HpcserveError: As calls and logins do.
        """
        shown: tuple[tuple[str, str], ...] = ()
        until = time.monotonic() + AWAY_S
        while True:
            asked_at = time.monotonic()
            try:
                order = patiently(self._ask, "submission", AskSubmission(id=id), Submission, for_s=AWAY_S)
            except Conflict:
                return
            _check(order, to)
            if self._asks is None and self._program is None:
                raise LoginRequired(
                    f"transfer {id} waits for you to submit it yourself ({order.why}); at a terminal: "
                    "hpcserve transfers --login",
                    detail=order.login,
                )
            if order.items != shown:
                self._says("\n".join(_told(order)))
                shown = order.items
            if self._login is None:
                self._log_in(self._demand or own_demand(_refused(order), order.consents))
                until = time.monotonic() + AWAY_S
                continue
            if time.monotonic() - asked_at > order.within_s:
                if time.monotonic() > until:
                    raise ServiceUnavailable("the service takes too long to say what is to be submitted; try again")
                continue
            task = self._try(order, self._login, until)
            if task:
                patiently(self._ask, "submitted", Submitted(id=id, task=task), TransferList, for_s=AWAY_S)
                return

    def _try(self, order: Submission, login: Kept, until: float) -> str:
        """The task; empty: it may go well later, or with another login."""
        from hpcserve.staging.transfer import GlobusTransfer, StepFailed

        items = [(End(order.source, start), End(order.target, end)) for start, end in order.items]
        try:
            with closing(GlobusTransfer(login.access_token, deadline_s=order.deadline_s)) as transfer:
                return transfer.submit(order.submission, items, label=order.label)
        except StepFailed as error:
            self._bear(error.trouble, until)
            return ""

    def _bear(self, trouble: Trouble, until: float) -> None:
        """Has another login where that helps, and waits where time does."""
        if trouble.kind == "login":
            self._login = None
            if trouble.detail is not None:
                self._wants_more(trouble)
            return
        if trouble.kind == "fatal":
            raise TransferFailed(f"{trouble.why}; it is refused to you as to the service")
        if trouble.kind == "stale" or time.monotonic() > until:
            raise ServiceUnavailable(f"{trouble.why}; once more: hpcserve transfers --login")
        time.sleep(max(trouble.retry_after_s, LONGEST_LOOK_S))

    def _wants_more(self, trouble: Trouble) -> None:
        """Globus says itself which login it wants."""
        assert self._demand is not None, "somebody has logged in"
        wanted = msgspec.convert((trouble.detail or {})["authorization_parameters"], Parameters)
        before = self._demand
        self._demand = msgspec.structs.replace(before, authorization_parameters=wanted).after(before)
        if _without_words(self._demand) == _without_words(before):
            raise AuthenticationError(f"{trouble.why}; your own login does not do either")

    def _log_in(self, demand: Demand) -> None:
        from hpcserve.auth import signin

        self._demand, self._logins = demand, self._logins + 1
        if self._logins > MOST_LOGINS:
            raise AuthenticationError("Globus wants one login after the other; try again later")
        asks = self._asks
        if self._program is not None:
            self._login = signin.by_secret(demand, NO_SERVICE, *self._program)
        elif asks is not None:
            code = partial(asks.code, why=FOR_TRANSFER, scope="")
            self._login = signin.log_in(demand, NO_SERVICE, code, renews=False)


def _check(order: Submission, to: str) -> None:
    """Whether the service has submitted what the user wants."""
    if order.target != destination(to, "").collection:
        raise PermissionDenied(
            f"the service wants a transfer to the collection {order.target[:40]!r} submitted, but the result was to go "
            f"to {to}; nothing is submitted: ask its operator"
        )
    destination(f"globus://{order.source}/", "")
    if not order.items or not 0 < order.deadline_s <= LONGEST_DEADLINE_S:
        raise ProtocolError("the service wants a transfer submitted that can be none; are both sides up to date?")


def _told(order: Submission) -> Iterator[str]:
    yield f"Globus takes this transfer from you alone ({order.why}):"
    for start, end in order.items[:MOST_SHOWN]:
        yield f"  {uri_of(End(order.source, start))} to {uri_of(End(order.target, end))}"
    if len(order.items) > MOST_SHOWN:
        yield f"  and {len(order.items) - MOST_SHOWN} more"


def _refused(order: Submission) -> LoginRequired:
    return LoginRequired(order.why, detail=order.login)


def _without_words(demand: Demand) -> Demand:
    wanted = msgspec.structs.replace(demand.authorization_parameters, session_message=None)
    return msgspec.structs.replace(demand, authorization_parameters=wanted)
