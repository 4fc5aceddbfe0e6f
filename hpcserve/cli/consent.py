"""What transfers wait for that a person does at the terminal: a login, or to submit one by a login of their own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import typer

from hpcserve.cli.options import options
from hpcserve.errors import HpcserveError, LoginRequired, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hpcserve.cli.asking import Terminal
    from hpcserve.client import Client
    from hpcserve.client.submitting import Agrees, Submitter
    from hpcserve.wire.admin import TransferView

T = TypeVar("T")

AWAY_S = 30.0
"""So long it is asked again whether a login is missing, while Globus does not say."""
LOGIN_S = 5.0
"""A transfer is tried with a new login by then, unless Globus is busy."""
LOOK_S = 0.5
CONSENTS = "hpcserve transfers --login"
MOST_LOGINS = 5
UNDECIDED = ("waiting", "prepared", "offered")


def log_in_for(ctx: typer.Context, wanted: LoginRequired) -> None:
    """See :func:`hpcserve.client.consents.log_in_for`, with the person at the terminal.

    Raises:
        LoginRequired: There is no terminal and no secret, or the service did not say which login it needs.
        HpcserveError: As for ``hpcserve login``.
    """
    from hpcserve import config
    from hpcserve.cli.asking import terminal
    from hpcserve.client import consents

    asks = terminal()
    if asks is None and config.client_credentials() is None:
        raise at_a_terminal(wanted)
    consents.log_in_for(options(ctx).service, wanted, asks)


def at_a_terminal(wanted: LoginRequired) -> LoginRequired:
    """The same where there is no terminal: the command that somebody has just given is of no use there."""
    why = wanted.message.removesuffix(f"; log in: {CONSENTS}")
    mend = "that takes a terminal" if CONSENTS in why else f"log in at a terminal: {CONSENTS}"
    return LoginRequired(f"{why}; {mend}", detail=wanted.detail)


def submitter(client: Client, *, yes: bool = False) -> Submitter:
    """What submits transfers that Globus takes from their owner alone; ``yes``: see :func:`agreement`."""
    from hpcserve.cli.asking import terminal
    from hpcserve.cli.terminal import note
    from hpcserve.cli.unanswered import Unanswered
    from hpcserve.client.submitting import Submitter

    person = terminal()
    return Submitter(Unanswered(client.call, note), person, agreement(person, yes=yes), note)


def agreement(person: Terminal | None, *, yes: bool) -> Agrees:
    """Shows what is to be submitted, and whether it may be: nothing without a yes.

    That is a person's, or ``yes``, which was said beforehand, and of what goes where the command names alone.
    """
    from hpcserve.cli.terminal import note

    def agrees(told: str, *, is_named: bool) -> bool:
        note(told)
        if yes and is_named:
            return True
        return person is not None and person.agrees("Submit it?")

    return agrees


def with_logins(
    ctx: typer.Context, wanted: LoginRequired, go_on: Callable[[], T], submit: Callable[[], bool] = lambda: False
) -> T:
    """What ``go_on`` comes to, with all the logins that it takes.

    Args:
        ctx: The command's.
        wanted: The first login.
        go_on: What wants logins, once more.
        submit: Submits what waits for that, and not for a login at the service; whether it did.

    Raises:
        HpcserveError: As ``go_on``, or nobody is there to log in.
    """
    for _ in range(MOST_LOGINS):
        try:
            submitted = submit()
        except LoginRequired as error:  # the service needs one before it says what is to be submitted
            submitted, wanted = False, error
        if not submitted:
            log_in_for(ctx, wanted)
        try:
            return go_on()
        except LoginRequired as error:
            wanted = error
    raise wanted


def log_in_for_all(ctx: typer.Context, client: Client, named: Sequence[str] = ()) -> None:
    """As the transfers need it that wait for it; if none does, as results that are yet to come will.

    ``named``: the places of which it was said beforehand that what is offered may go there; else it is asked.

    Raises:
        HpcserveError: As :func:`log_in_for`.
    """
    with submitter(client, yes=bool(named)) as by_owner:
        some = _see_to_all(ctx, client, by_owner, named)
    if not some:
        _log_in_beforehand(ctx, client)


def _see_to_all(ctx: typer.Context, client: Client, by_owner: Submitter, named: Sequence[str]) -> bool:
    """Whether some waited."""
    some, failed = False, dict[str, HpcserveError]()
    for _ in range(MOST_LOGINS):
        waiting = [each for each in _transfers(client) if _waits(each) and each.id not in failed]
        if not waiting:
            break
        some = True
        wanted, rest = submit_each(by_owner, [each for each in waiting if each.state == "offered"], failed, named), []
        if wanted is None and all(each.state != "offered" for each in waiting):
            wanted = LoginRequired(waiting[0].why, detail=waiting[0].login)
        if wanted is not None:
            log_in_for(ctx, wanted)
            rest = [each for each in waiting if each.login != wanted.detail]
            waiting = [each for each in waiting if each.login == wanted.detail]
            for each in waiting:
                _go_on(client, each)
        _settled(client, [each.id for each in waiting])
        _seen_to(client, [each.id for each in rest])
    if failed:
        raise next(iter(failed.values()))
    return some


def submit_each(
    by_owner: Submitter,
    offered: Iterable[TransferView],
    failed: dict[str, HpcserveError],
    named: Sequence[str] = (),
) -> LoginRequired | None:
    """Submits these, one after the other; what fails is noted. The login that the service needs first, if it does."""
    from hpcserve.cli.terminal import note

    wanted = None
    for each in offered:
        try:
            by_owner.submit(each.id, _named(each, named))
        except LoginRequired as error:
            wanted = wanted or error
        except HpcserveError as error:
            if failed:  # the first is the command's own error
                note(f"transfer {each.id}: {error.message}")
            failed[each.id] = error
    return wanted


def _named(each: TransferView, named: Sequence[str]) -> str | None:
    """The place of these that a transfer goes to, to which it is held then; None: none was named.

    Raises:
        PermissionDenied: It goes elsewhere.
    """
    from hpcserve.core.destinations import covers, destination

    if not named:
        return None
    for to in named:
        if covers(to, each.path, destination(each.to, "")):
            return to
    raise PermissionDenied(f"transfer {each.id} is not submitted: it goes to {each.to}, which no --to names")


def _waits(each: TransferView) -> bool:
    """For somebody at the terminal. What is being cancelled ends by itself, whatever login would be wanted."""
    return each.state != "cancelling" and (each.login is not None or each.state == "offered")


def _transfers(client: Client, ids: Sequence[str] = ()) -> tuple[TransferView, ...]:
    from hpcserve.wire.admin import AskTransfers, TransferList

    return client.call("transfers", AskTransfers(ids=tuple(ids)), TransferList).transfers


def _go_on(client: Client, each: TransferView) -> None:
    """Says to the service that somebody has logged in: what is asked for twice is sent once."""
    from hpcserve.wire.admin import Deliver, TransferList

    client.call("deliver", Deliver(paths=(each.path,), to=each.to), TransferList)


def _settled(client: Client, ids: Sequence[str]) -> None:
    """Waits for a time until it is known of all of these whether they wait for more."""
    until = time.monotonic() + AWAY_S
    while any(each.state in UNDECIDED and each.login is None for each in _transfers(client, ids)):
        if time.monotonic() > until:
            return
        time.sleep(LOOK_S)


def _seen_to(client: Client, ids: Sequence[str]) -> None:
    """Gives those time that another login than the last is told of: it may have done for them, too."""
    until = time.monotonic() + LOGIN_S
    while ids and any(map(_waits, _transfers(client, ids))) and time.monotonic() < until:
        time.sleep(LOOK_S)


def _log_in_beforehand(ctx: typer.Context, client: Client) -> None:
    from hpcserve.cli.terminal import note
    from hpcserve.client.sending import patiently
    from hpcserve.wire.admin import AskHttps, ByHttps

    def look() -> None:
        patiently(client.call, "https", AskHttps(), ByHttps, for_s=AWAY_S)

    try:
        look()
    except LoginRequired as wanted:
        with_logins(ctx, wanted, look)
    else:
        note("no transfer waits for a login, and yours does for those to come")
