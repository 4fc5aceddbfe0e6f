"""Submits transfers that Globus takes from their owner alone, by a login for Transfer that no service gets.

The service has a submission id for each, of which Globus makes one task, whoever submits with it and however often. It
keeps the id while we may be about to submit, and looks for the task then; so we ask for it when somebody has agreed and
logged in, and not before. If we die, or do not hear the answer, it finds the task. The login stays in this process, and
is revoked at its end; a program's, or that of one who is killed, ends by itself.

A service is not trusted with what is submitted: it has to go to where the user named, all of it is shown first, each
time somebody agrees to it, and what was agreed to is submitted or nothing. Which files those are, it says alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from hpcserve import config
from hpcserve.client.login import Asks
from hpcserve.client.sending import AWAY_S, LONGEST_LOOK_S, Ask, patiently, submits
from hpcserve.core.delivery import End, Trouble
from hpcserve.core.demands import Demand, Parameters, own_demand
from hpcserve.core.destinations import covers, is_uuid, uri_of
from hpcserve.core.spelling import printable
from hpcserve.errors import (
    AuthenticationError,
    Conflict,
    LoginRequired,
    PermissionDenied,
    ProtocolError,
    ServiceUnavailable,
    TransferFailed,
)
from hpcserve.staging.transfer import GlobusTransfer, StepFailed
from hpcserve.wire.admin import AskSubmission, AskTransfers, NotSubmitted, Submission, Submitted, TransferList

if TYPE_CHECKING:
    from hpcserve.auth.tokens import Kept

MOST_LOGINS = 5
LONGEST_DEADLINE_S = 366 * 86_400.0
FOR_TRANSFER = "this login lets hpcserve submit it for you, here"
NO_SERVICE = ""


class Agrees(Protocol):
    """Whose transfer it is, or who wrote the program."""

    def __call__(self, told: str, *, is_named: bool) -> bool:
        """Whether that may be submitted.

        Args:
            told: All that is about to be submitted; nothing but what can be printed, in lines.
            is_named: Whether all of it goes to where the user himself has said, and nowhere else.
        """


class Submitter:
    """Has one login for all that it submits, which ends with the ``with`` block.

    Args:
        ask: Makes calls at the service.
        asks: Who can log in; None: nobody, but a program by its secret.
        agrees: Asked of each transfer, and once more if the service changes it.
        says: Told what goes on.
    """

    def __init__(self, ask: Ask, asks: Asks | None, agrees: Agrees, says: Callable[[str], None]) -> None:
        self._ask = ask
        self._asks = asks
        self._agrees = agrees
        self._says = says
        self._program = config.client_credentials()
        self._demand: Demand | None = None
        self._login: Kept | None = None
        self._logins = 0
        self._why = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log_out()

    def submit(self, id: str, to: str | None) -> None:
        """Submits a transfer that is offered. One that is not, or no longer, is left as it is.

        Args:
            id: Of the transfer.
            to: Where the user wants the result, as a URI; None: nothing but the service says that.

        Raises:
            LoginRequired: Nobody can log in.
            PermissionDenied: The service would have something else submitted, or nobody agrees to it.
            TransferFailed: Globus does not take it from its owner either.
            Conflict: It is offered, but cannot be submitted at present, or any more.
            HpcserveError: As calls and logins do.
        """
        self._logins = 0
        try:
            self._submit(id, to)
        except Conflict as error:
            [view] = patiently(self._ask, "transfers", AskTransfers(ids=(id,)), TransferList, for_s=AWAY_S).transfers
            if view.state == "offered":
                raise
            self._says(error.message)

    def _submit(self, id: str, to: str | None) -> None:
        order, agreed, until = self._order(id, to, look=True), None, 0.0
        if self._asks is None and self._program is None:
            raise LoginRequired(
                f"transfer {id} waits for you to submit it yourself ({printable(order.why)}); {submits(to)}",
                detail=order.login,
            )
        while True:
            if _what(order) != agreed:
                self._agree(id, order, to)
                agreed, until = _what(order), time.monotonic() + AWAY_S
            if self._login is None:
                self._log_in(self._demand or _own_demand(order))
                until = time.monotonic() + AWAY_S
            assert self._login is not None, "that is what logging in is for"
            asked_at = _clock()
            order = self._order(id, to, look=False)
            if _what(order) != agreed:
                continue
            if _clock() - asked_at > order.within_s:
                if time.monotonic() > until:
                    raise ServiceUnavailable("the service takes too long to say what is to be submitted; try again")
                time.sleep(LONGEST_LOOK_S)  # also where a service says that there is no time at all
                continue
            try:
                task = self._try(order, self._login, until)
            except StepFailed as error:
                self._give_back(id, order, error.trouble)
                return
            except AuthenticationError as error:
                raise AuthenticationError(
                    f"{error.message}; transfer {id} stays offered to you: when you can log in so, hpcserve transfers "
                    f"--login; to give it up: hpcserve transfers --cancel {id}"
                ) from error
            if task:
                self._report(id, order.submission, task, self._login)
                return

    def _order(self, id: str, to: str | None, *, look: bool) -> Submission:
        """What is to be submitted, which is such as can be; with ``look`` it is not handed out yet."""
        order = patiently(self._ask, "submission", AskSubmission(id=id, look=look), Submission, for_s=AWAY_S)
        _check(order, to)
        if order.submission if look else not is_uuid(order.submission):
            raise ProtocolError(
                f"the service wants a transfer submitted with {order.submission[:40]!r}, which is no UUID, or hands "
                "one out before somebody agreed; are both sides up to date?"
            )
        return order

    def _agree(self, id: str, order: Submission, to: str | None) -> None:
        if self._agrees("\n".join(_told(order, to)), is_named=_is_named(order, to)) is not True:
            raise PermissionDenied(
                f"transfer {id} is not submitted, since nobody agreed to it; to submit it {submits(to)}; "
                f"to give it up: hpcserve transfers --cancel {id}"
            )

    def _try(self, order: Submission, login: Kept, until: float) -> str:
        """The task; empty: it may go well later, or with another login.

        Raises:
            StepFailed: It never will, with this submission id.
        """
        items = [(End(order.source, start), End(order.target, end)) for start, end in order.items]
        try:
            with closing(GlobusTransfer(login.access_token, deadline_s=order.deadline_s)) as transfer:
                return transfer.submit(order.submission, items)
        except StepFailed as error:
            if error.trouble.kind in ("fatal", "stale"):
                raise
            self._bear(error.trouble, until)
            return ""

    def _report(self, id: str, submission: str, task: str, login: Kept) -> None:
        """Nobody follows what comes too late: it is cancelled."""
        report = Submitted(id=id, submission=submission, task=task)
        try:
            patiently(self._ask, "submitted", report, TransferList, for_s=AWAY_S)
        except Conflict as error:
            try:
                with closing(GlobusTransfer(login.access_token, deadline_s=0.0)) as transfer:
                    transfer.cancel(task)
            except StepFailed as failed:
                raise TransferFailed(
                    f"{printable(error.message)}; that did not succeed ({failed.trouble.why}): cancel it at "
                    "app.globus.org/activity"
                ) from failed
            self._says(f"{printable(error.message)}: it is cancelled")

    def _give_back(self, id: str, order: Submission, trouble: Trouble) -> None:
        """Globus does not take it from its owner either: the service sees to another id, or gives it up.

        Raises:
            TransferFailed: It is given up.
        """
        stale = trouble.kind == "stale"
        told = NotSubmitted(id=id, submission=order.submission, why=trouble.why, stale=stale)
        patiently(self._ask, "not-submitted", told, TransferList, for_s=AWAY_S)
        if not stale:
            raise TransferFailed(f"{trouble.why}; it is refused to you as to the service")
        self._says(f"transfer {id} gets another submission id, which takes a minute or two ({trouble.why})")

    def _bear(self, trouble: Trouble, until: float) -> None:
        """Has another login where that helps, and waits where time does."""
        if trouble.kind == "login":
            self._log_out()
            if trouble.detail is not None:
                self._wants_more(trouble)
            return
        if time.monotonic() > until:
            raise ServiceUnavailable(f"{trouble.why}; once more: hpcserve transfers --login")
        time.sleep(max(trouble.retry_after_s, LONGEST_LOOK_S))

    def _wants_more(self, trouble: Trouble) -> None:
        """Globus says itself which login it wants."""
        assert self._demand is not None, "somebody has logged in"
        wanted = msgspec.convert((trouble.detail or {})["authorization_parameters"], Parameters)
        before, self._why = self._demand, f"{printable(trouble.why)}; "
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
            code = partial(asks.code, why=f"{self._why}{FOR_TRANSFER}", scope="")
            self._login = signin.log_in(demand, NO_SERVICE, code, renews=False)

    def _log_out(self) -> None:
        """The login is worth nothing any more; that of a program ends by itself."""
        from hpcserve.auth import signin

        login, self._login = self._login, None
        if login is None:
            return
        try:
            signin.revoke(login)
        except ServiceUnavailable as error:
            self._says(f"the login for Globus Transfer ends by itself, in two days at most: {error.message}")


def _clock() -> float:
    """Seconds that go on while this machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _check(order: Submission, to: str | None) -> None:
    """What can be no transfer is refused, and what does not go to where the user said at all."""
    for each in (order.source, order.target):
        if not is_uuid(each):
            raise ProtocolError(f"the service wants a transfer of {each[:40]!r} submitted, which is no UUID")
    paths = [path for item in order.items for path in item]
    if not paths or any(_is_odd(path) for path in paths) or not 0 < order.deadline_s <= LONGEST_DEADLINE_S:
        raise ProtocolError("the service wants a transfer submitted that can be none; are both sides up to date?")
    if to is not None and not any(_named(order, to)):
        raise PermissionDenied(
            f"the service wants a transfer to {uri_of(End(order.target, order.items[0][1]))} submitted, but the result "
            f"was to go to {to}; nothing is submitted: ask its operator"
        )


def _named(order: Submission, to: str) -> list[bool]:
    return [covers(to, start, End(order.target, end)) for start, end in order.items]


def _is_named(order: Submission, to: str | None) -> bool:
    """Whether all of it goes to where the user said."""
    return to is not None and all(_named(order, to))


def _is_odd(path: str) -> bool:
    """Whether it is none of a file, or leads elsewhere than it looks."""
    return not path.startswith("/") or path.endswith("/") or ".." in path.split("/") or not path.isprintable()


def _what(order: Submission) -> object:
    """All of it by which a transfer differs from another one."""
    return order.source, order.target, order.items, order.deadline_s


def _told(order: Submission, to: str | None) -> Iterator[str]:
    yield f"Globus takes this transfer from you alone ({printable(order.why)}):"
    items = [(End(order.source, start), End(order.target, end)) for start, end in order.items]
    elsewhere = [] if to is None else [each for each in items if not covers(to, each[0].path, each[1])]
    for start, end in (each for each in items if each not in elsewhere):
        yield f"  {uri_of(start)} to {uri_of(end)}"
    if elsewhere:
        yield f"and with it, elsewhere than to {to}:"
    for start, end in elsewhere:
        yield f"  {uri_of(start)} to {uri_of(end)}"


def _own_demand(order: Submission) -> Demand:
    refused = LoginRequired(order.why, detail=order.login)
    return own_demand(refused, order.consents, among=(order.source, order.target))


def _without_words(demand: Demand) -> Demand:
    wanted = msgspec.structs.replace(demand.authorization_parameters, session_message=None)
    return msgspec.structs.replace(demand, authorization_parameters=wanted)
