"""``hpcserve transfers``: results on their way to collections."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.options import open_client
from hpcserve.core.delivery import ENDED
from hpcserve.core.spans import span
from hpcserve.core.spelling import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from hpcserve.client import Client
    from hpcserve.client.sending import Transfer
    from hpcserve.wire.admin import TransferView

WATCH_S = 1.0
UNDELIVERED = ("failed", "cancelled")
UNITS = ("B", "kB", "MB", "GB", "TB")


def command(
    ctx: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Look again each second, until all have ended.")] = False,
    cancel: Annotated[
        str | None, typer.Option(metavar="ID", help="Have one not arrive; those with it in a task start anew.")
    ] = None,
    again: Annotated[
        str | None, typer.Option(metavar="ID", help="Bring one that has failed, or was cancelled, once more.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Of all users; for administrators.")] = False,
    login: Annotated[bool, typer.Option("--login", help="Log in as it takes to have results brought.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --login: submit what is offered and goes to --to without asking.")
    ] = False,
    to: Annotated[
        list[str] | None, typer.Option(metavar="URI", help="With --yes: where results may go; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object; with --watch, one a line.")] = False,
) -> None:
    """Show the transfers of your results: what has moved, how fast, and what they wait for."""
    from hpcserve.cli.consent import log_in_for_all
    from hpcserve.core.destinations import destination
    from hpcserve.wire.admin import CancelTransfer, TransferList

    if (yes or to) and not (yes and to and login):
        raise typer.BadParameter(
            "what is submitted without asking is named: --login --yes --to URI", param_hint="--yes"
        )
    for each in to or ():
        destination(each, "checked")
    with open_client(ctx) as client:
        if cancel is not None:
            done = client.call("cancel-transfer", CancelTransfer(id=cancel), TransferList)
            typer.echo(f"transfer {cancel}: {printable(done.transfers[0].state)}")
            return
        if again is not None:
            state = _again(client, again)
            if not watch:
                typer.echo(f"transfer {again}: {printable(state)}")
                return
        if login:
            log_in_for_all(ctx, client, to or ())
        while True:
            found = _ask(client, everybody=everybody)
            _show(found, json=json, lines=watch, owners=everybody)
            if not watch or all(each.state in ENDED for each in found):
                return
            time.sleep(WATCH_S)


def _ask(client: Client, *, everybody: bool) -> tuple[TransferView, ...]:
    from hpcserve.wire.admin import AskTransfers, TransferList

    return client.call("transfers", AskTransfers(everybody=everybody), TransferList).transfers


def _again(client: Client, id: str) -> str:
    """Has a file go once more to where it was to go; its state then.

    Raises:
        Conflict: It is being cancelled, and ends before it can begin anew.
    """
    from hpcserve.errors import Conflict
    from hpcserve.wire.admin import AskTransfers, Deliver, TransferList

    [before] = client.call("transfers", AskTransfers(ids=(id,)), TransferList).transfers
    if before.state == "cancelling":
        raise Conflict(f"transfer {id} is still being cancelled; when it has ended: hpcserve transfers --again {id}")
    if before.state not in ENDED or before.state == "succeeded":
        return before.state
    asked = Deliver(paths=(before.path,), to=before.to)
    return client.call("deliver", asked, TransferList).transfers[0].state


def _show(found: Sequence[TransferView], *, json: bool, lines: bool, owners: bool = False) -> None:
    if json:
        import msgspec

        encoded = msgspec.json.encode({"transfers": found})
        typer.echo(encoded if lines else msgspec.json.format(encoded, indent=2))
        return
    from hpcserve.cli.terminal import show

    if not found:
        typer.echo("no transfers")
        return
    show(*_drawn([_printable(each) for each in found], owners=owners))


def _printable(each: TransferView) -> TransferView:
    """The same for a terminal, which nothing that the service says steers."""
    from msgspec.structs import asdict, replace

    return replace(each, **{name: printable(told) for name, told in asdict(each).items() if isinstance(told, str)})


def _drawn(found: Sequence[TransferView], *, owners: bool) -> Iterator[RenderableType]:
    yield _table(found, owners=owners)
    for each in found:
        if each.why:
            yield f"{each.id}: {each.why}{_to_do(each)}{_until(each.until_s)}"
        if each.state in UNDELIVERED:
            yield (
                f"{each.id}: as long as it is kept, the result is in {each.path} on the site; once more: "
                f"hpcserve transfers --again {each.id}"
            )
        if each.state in UNDELIVERED and each.task:
            yield f"{each.id}: what had moved may lie at the destination, incomplete, under the file's name"


def _to_do(each: TransferView) -> str:
    """What is left to do for a login, where the service's own words do not say it."""
    consents = "hpcserve transfers --login"
    if each.state == "offered":
        return f"; submit it yourself: {consents}"
    return "" if each.login is None or consents in each.why else f"; log in: {consents}"


def _until(at_s: float | None) -> str:
    """For how long something may be wrong, by this machine's time of day."""
    if at_s is None:
        return ""
    return f"; it is given up at {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at_s))}"


def _table(found: Sequence[TransferView], *, owners: bool) -> Table:
    from hpcserve.cli.terminal import table

    whose = ("owner",) if owners else ()
    made = table("transfer", *whose, "to", "state", "asked for", "moved", "files", "rate", "left", folded=("to",))
    now_s = time.time()
    for each in found:
        made.add_row(
            each.id,
            *((each.owner,) if owners else ()),
            each.to,
            each.state,
            f"{span(now_s - each.asked_s)} ago",
            _moved(each),
            f"{each.task_files}/{each.task_files_in_all}" if each.task and each.state not in ENDED else "",
            f"{amount(each.bytes_per_s)}/s" if each.bytes_per_s else "",
            _left(each),
        )
    return made


def _moved(each: TransferView) -> str:
    """Of one that has begun. What a task that did not succeed has moved, nobody tells."""
    if each.state == "succeeded":
        return amount(each.size_bytes)
    if each.state in ENDED:
        return ""
    return (
        f"{amount(each.task_bytes)} of {amount(each.task_bytes_in_all)}"
        if each.task
        else f"0 B of {amount(each.size_bytes)}"
    )


def _left(each: TransferView) -> str:
    from hpcserve.client.sending import transfer_of

    eta_s = transfer_of(each).eta_s
    return "" if eta_s is None or each.state != "active" else span(eta_s)


def progress(transfer: Transfer) -> str:
    """How far a transfer is, in one line."""
    if transfer.away:
        return (
            f"transfer {transfer.id} to {transfer.to} was {transfer.state} when it was seen last, and is asked for "
            f"again: {transfer.away}"
        )
    moved = f", {amount(transfer.moved_bytes)} of {amount(transfer.in_all_bytes)}" if transfer.task else ""
    why = f": {transfer.why}{_until(transfer.until_s)}" if transfer.why else ""
    return f"transfer {transfer.id} to {transfer.to} is {transfer.state}{moved}{why}"


def amount(size_bytes: float) -> str:
    """So many bytes, in words."""
    unit = 0
    while size_bytes >= 999.5 and unit < len(UNITS) - 1:
        size_bytes /= 1000
        unit += 1
    return f"{size_bytes:.0f} {UNITS[unit]}" if not unit or size_bytes >= 99.5 else f"{size_bytes:.1f} {UNITS[unit]}"
