"""Has the service bring a staged result to a collection, and looks on until it has arrived.

The service goes on without us. That a file arrived as it was is seen to by Globus, which compares checksums; where its
new place is on this machine, it is compared once more with what the replica said of each data set.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hpcserve import config
from hpcserve.auth.tokens import note_lent
from hpcserve.client.arguments import FOREVER
from hpcserve.core.delivery import ENDED, End
from hpcserve.core.destinations import destination
from hpcserve.core.spelling import printable
from hpcserve.errors import (
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    HpcserveError,
    InvalidInput,
    LoginRequired,
    Overloaded,
    ServiceUnavailable,
    StorageFull,
    TransferFailed,
)
from hpcserve.wire import messages as wire
from hpcserve.wire.admin import Admin, AskTransfers, Deliver, TransferList, TransferView

if TYPE_CHECKING:
    from hpcserve.client.consents import Consents
    from hpcserve.client.outputs import Outputs

T = TypeVar("T")

SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.2, 2.0
AWAY = (DeadlineExceeded, Overloaded, ServiceUnavailable)
AWAY_S = 600.0
"""A daemon that is being restarted has come back by then."""
MOST_CONSENTS = 5
"""So many things one transfer may want of its owner, one after the other."""
LOGIN_S = 5.0
"""A login that renews itself has done so by then; another one is asked for."""


_MEND = re.compile(r"; log in(?: again)?: hpcserve transfers --login$")
"""What the service says that is said here anyway."""


class Ask(Protocol):
    """An administrative call, from a thread that may wait."""

    def __call__(self, verb: str, arguments: Admin, answer: type[T]) -> T:
        """See :meth:`hpcserve.Client.call`."""


@dataclass(frozen=True)
class Transfer:
    """A result on its way to a collection, as it was seen last.

    Files that travel together are one task of Globus: what has moved, and of how much, is said of all of them.

    Attributes:
        id: What ``hpcserve transfers`` calls it.
        to: The URI of the file where it will be.
        state: ``waiting``, ``prepared``, ``offered`` (to its owner: ``hpcserve transfers --login`` submits it),
            ``active``, ``inactive``, ``cancelling``, ``succeeded``, ``failed``, ``cancelled``.
        why: What it waits for, or why it failed.
        task: The id of Globus's task, when there is one.
        path: Where the file lies on the site, as long as it is kept there.
        moved_bytes: What has moved, in bytes; what is sent again, as after a wrong checksum, does not count.
        in_all_bytes: Of how many.
        files: How many files have moved.
        in_all_files: Of how many.
        bytes_per_s: How fast.
        until_s: For how long it is borne that something is wrong, in seconds since 1970; None: nothing is, or it is
            not known.
        away: Why the service tells nothing of it at present; all else is as it was seen last. Empty: it does.
    """

    id: str
    to: str
    state: str
    why: str = ""
    task: str = ""
    path: str = ""
    moved_bytes: int = 0
    in_all_bytes: int = 0
    files: int = 0
    in_all_files: int = 0
    bytes_per_s: float = 0.0
    until_s: float | None = None
    away: str = ""

    @property
    def eta_s(self) -> float | None:
        """For how long it will still move, in seconds; None: not known, as while it is sent once more or compared."""
        left = self.in_all_bytes - self.moved_bytes
        if self.bytes_per_s <= 0 or (left <= 0 and self.state != "succeeded"):
            return None
        return max(0.0, left / self.bytes_per_s)


class SentFile:
    """A result that is on a collection now.

    Attributes:
        uri: Where: ``globus://COLLECTION/PATH``.
        size_bytes: Its size.
        path: Where it is seen here; None: it is not.
        transfer: How it came there.
    """

    def __init__(self, transfer: Transfer, size_bytes: int, path: Path | None) -> None:
        self.uri = transfer.to
        self.size_bytes = size_bytes
        self.path = path
        self.transfer = transfer

    def __repr__(self) -> str:
        return f"<SentFile {self.uri}, {self.size_bytes} bytes>"


class Sending:
    """Sends one result.

    Args:
        to: Where: ``globus://COLLECTION/DIRECTORY/``.
        keep_login: Whether the service may keep a login until it has arrived.
        seen: Told of each look.
    """

    def __init__(self, to: str, *, keep_login: bool = False, seen: Callable[[Transfer], None] = lambda _: None) -> None:
        destination(to, "checked")
        self._to = to
        self._keep_login = keep_login
        if keep_login:
            with suppress(ConfigError, StorageFull):  # nothing but a hint when one logs out depends on it
                note_lent()
        self._seen = seen

    @classmethod
    def asked(
        cls, to: str | None, *, keep_login: bool, seen: Callable[[Transfer], None] = lambda _: None
    ) -> Sending | None:
        """As the caller asks for it; None: nothing is sent.

        Raises:
            InvalidInput: ``to`` is no destination, or a login is to be kept for nothing.
        """
        if to is not None:
            return cls(to, keep_login=keep_login, seen=seen)
        if keep_login:
            raise InvalidInput("keep_login=True: a login is kept for a result that goes to a collection; give to=")
        return None

    def journey(self, result: wire.Result, seen: Callable[[Transfer], None] | None = None) -> Journey:
        """The way of one result. It may be gone anew, after a login: what is asked for twice is sent once.

        ``seen``: told of each look, too.
        """
        assert result.staged is not None, "asked for what is staged"
        asked = Deliver(paths=(result.staged.path,), to=self._to, keep_login=self._keep_login)

        def told(transfer: Transfer) -> None:
            self._seen(transfer)
            if seen is not None:
                seen(transfer)

        return Journey(asked, result, told)

    def send(
        self,
        result: wire.Result,
        ask: Ask,
        seen: Callable[[Transfer], None] | None = None,
        *,
        consents: Consents | None = None,
    ) -> Outputs:
        """Waits until a result has arrived. The outputs are empty, unless their new place is on this machine.

        ``consents``: sees to the logins that are wanted for that.

        Raises:
            TransferFailed: It does not arrive; or it arrived, and is not what it was.
            LoginRequired: The service needs another login for that; it goes on after it.
        """
        journey = self.journey(result, seen)
        left = 0 if consents is None else MOST_CONSENTS
        while True:
            try:
                return journey.outputs(_arrival(journey, ask))
            except LoginRequired as wanted:
                journey.stops(time.monotonic())
                if consents is None or not left:
                    raise
                left -= 1
                consents.see_to(wanted, journey)
            journey.goes_on()


class Journey:
    """The way of one result, of which somebody looks how far it is.

    Attributes:
        asked: What the service is to be asked for.
        last: As it was seen last; None: not at all.
        waits_since: When it was first seen to wait for its owner, in monotonic seconds; infinity: it does not.
    """

    def __init__(self, asked: Deliver, result: wire.Result, seen: Callable[[Transfer], None]) -> None:
        self.asked = asked
        self._result = result
        self._seen = seen
        self.waits_since = FOREVER
        self.last: Transfer | None = None

    def stops(self, now: float) -> None:
        """It waits for its owner, since ``now`` if not before."""
        self.waits_since = min(self.waits_since, now)

    def goes_on(self) -> None:
        """What it waited for was seen to."""
        self.waits_since = FOREVER

    def unseen(self, error: HpcserveError) -> None:
        """The service says nothing of it at present."""
        if self.last is not None:
            self._seen(replace(self.last, away=printable(error.message)))

    def look(self, view: TransferView, now: float) -> Transfer | None:
        """What the service says at ``now``, in monotonic seconds. None: it has not arrived yet.

        Raises:
            TransferFailed: It does not arrive.
            Cancelled: Somebody has cancelled it.
            LoginRequired: The service needs another login for that; it goes on after it.
        """
        self.last = transfer = transfer_of(view)
        self._seen(transfer)
        if view.state in ENDED:
            return _arrived(transfer)
        if view.state == "offered" and view.login is not None:
            raise LoginRequired(
                f"transfer {transfer.id} waits for you to submit it yourself ({transfer.why}); "
                f"{submits(self.asked.to)}",
                detail=view.login,
            )
        waits = view.login is not None or view.state == "inactive"
        self.waits_since = min(self.waits_since, now) if waits else FOREVER
        if now - self.waits_since > LOGIN_S:
            why = _MEND.sub("", transfer.why)
            raise LoginRequired(
                f"transfer {transfer.id} waits for a login ({why}); it goes on after: {_after(self.asked.to)}",
                detail=view.login,
            )
        return None

    def outputs(self, transfer: Transfer) -> Outputs:
        """What has arrived. Reads all of it where its new place is on this machine.

        Raises:
            TransferFailed: It is not what it was.
        """
        from hpcserve.client.outputs import Outputs
        from hpcserve.client.staged import StagedFile

        result = self._result
        assert result.staged is not None, "asked for what is staged"
        path = seen_here(destination(transfer.to, ""))
        values: dict[str, Any] = {}
        if path is not None:
            file = StagedFile(path, result.staged, lambda _path: None)
            file.verify()
            values = file.arrays()
        return Outputs(
            values,
            replica=result.replica,
            version=result.version,
            run_s=result.run_us / 1e6,
            image=result.image,
            sent=SentFile(transfer, result.staged.size_bytes, path),
        )


def submits(to: str | None) -> str:
    """The commands that submit what is offered, for a person and for a program that has named ``to``."""
    place = "URI" if to is None else shlex.quote(to)
    return f"at a terminal: hpcserve transfers --login; in a program: hpcserve transfers --login --yes --to {place}"


def _after(to: str) -> str:
    """The command after which it goes on, for a program also where it is offered then."""
    login = "hpcserve transfers --login"
    if config.client_credentials() is None:
        return login
    return f"{login}; and where you are to submit it yourself: {login} --yes --to {shlex.quote(to)}"


def longer(pause_s: float) -> float:
    """The pause before the next look but one."""
    return min(pause_s * 1.3, LONGEST_LOOK_S)


def transfer_of(view: TransferView) -> Transfer:
    """What the service says of a transfer, in what can be printed."""
    return Transfer(
        id=printable(view.id),
        to=printable(view.to),
        state=printable(view.state),
        why=printable(view.why),
        task=printable(view.task),
        path=printable(view.path),
        moved_bytes=view.task_bytes,
        in_all_bytes=view.task_bytes_in_all,
        files=view.task_files,
        in_all_files=view.task_files_in_all,
        bytes_per_s=view.bytes_per_s,
        until_s=view.until_s,
    )


def seen_here(end: End) -> Path | None:
    """Where a file of this machine's own Globus Connect Personal is; None: it is elsewhere, or not to be seen."""
    try:
        from globus_sdk import LocalGlobusConnectPersonal

        if LocalGlobusConnectPersonal().endpoint_id != end.collection:
            return None
    except (ImportError, OSError, ValueError):
        return None
    path = Path.home() / end.path[3:] if end.path.startswith("/~/") else Path(end.path)
    return path if os.access(path, os.R_OK) else None


def patiently(
    ask: Ask,
    verb: str,
    arguments: Admin,
    answer: type[T],
    *,
    for_s: float,
    away: Callable[[HpcserveError], None] = lambda _: None,
) -> T:
    """Asks again while the daemon, or Globus, is away, for so many seconds: for calls that may be made twice.

    ``away`` is told of each time that it is.
    """
    until = time.monotonic() + for_s
    while True:
        try:
            return ask(verb, arguments, answer)
        except AWAY as error:
            if time.monotonic() > until:
                raise
            away(error)
        time.sleep(LONGEST_LOOK_S)


def _asked(
    ask: Ask, verb: str, arguments: Admin, away: Callable[[HpcserveError], None] = lambda _: None
) -> TransferView:
    return patiently(ask, verb, arguments, TransferList, for_s=AWAY_S, away=away).transfers[0]


def _arrival(journey: Journey, ask: Ask) -> Transfer:
    """Waits for it. What was seen before is not asked for once more: it may be cancelled by now."""
    first = journey.last
    if first is None:
        view = _asked(ask, "deliver", journey.asked)
    else:
        view = _asked(ask, "transfers", AskTransfers(ids=(first.id,)), journey.unseen)
    pause_s = SHORTEST_LOOK_S
    while (transfer := journey.look(view, time.monotonic())) is None:
        time.sleep(pause_s)
        pause_s = longer(pause_s)
        view = _asked(ask, "transfers", AskTransfers(ids=(view.id,)), journey.unseen)
    return transfer


def _arrived(transfer: Transfer) -> Transfer:
    if transfer.state == "succeeded":
        return transfer
    error: type[HpcserveError] = Cancelled if transfer.state == "cancelled" else TransferFailed
    part = "; what had moved may lie there, incomplete or damaged: remove it" if transfer.task else ""
    raise error(
        f"transfer {transfer.id} to {transfer.to} has {transfer.state}: {transfer.why}{part}; the result is still on "
        f"the site for a time, in {transfer.path}; once more: hpcserve transfers --again {transfer.id}"
    )
