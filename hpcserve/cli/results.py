"""``hpcserve results``: the results that lie in files of the site, and giving some up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.options import open_client, seconds
from hpcserve.cli.transfers import amount
from hpcserve.core.spans import span
from hpcserve.core.spelling import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcserve.client import Client
    from hpcserve.wire.results import ResultList, ResultView

AT_ONCE = 1000
"""So many are given up in one call."""


def command(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]...", help="With --discard: which; default: those listed.")
    ] = None,
    *,
    undelivered: Annotated[bool, typer.Option("--undelivered", help="Only those that were not delivered.")] = False,
    older: Annotated[
        float | None, typer.Option(metavar="SECONDS", parser=seconds, help="Only those written so long ago, or longer.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Of all users; for administrators.")] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Remove them from the site, delivered or not.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --discard: without asking.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show your results that lie in files of the site, and whether they were delivered; or give some up."""
    from hpcserve.wire.results import AskResults, ResultList

    if paths and not discard:
        raise typer.BadParameter(f"{paths[0]}: paths are for --discard; without it all results are listed")
    if paths and (undelivered or older is not None or everybody):
        raise typer.BadParameter(f"{paths[0]}: give paths, or say by --undelivered, --older and --everybody which")
    with open_client(ctx) as client:
        if paths:
            _discard(client, paths)
            return
        asked = AskResults(everybody=everybody, undelivered=undelivered, older_s=older or 0.0)
        found = client.call("results", asked, ResultList)
        if not discard:
            _show(found, json=json)
            return
        wanted = [each.path for each in found.results if not each.held]
        if wanted and (yes or _agrees(found, len(wanted))):
            _discard(client, wanted)
        elif not wanted:
            typer.echo("no results to discard")


def _agrees(found: ResultList, number: int) -> bool:
    """Whether the person wants so many removed, having seen them.

    Raises:
        PermissionDenied: There is nobody to ask.
    """
    from hpcserve.cli.asking import terminal
    from hpcserve.errors import PermissionDenied

    person = terminal()
    if person is None:
        raise PermissionDenied(f"{number} results would be removed, and no terminal is here to ask; add --yes")
    _show(found, json=False)
    return person.agrees(f"Remove these {number}, but for those on their way?")


def _discard(client: Client, paths: Sequence[str]) -> None:
    from hpcserve.wire.results import Discard, Discarded

    removed = 0
    for first in range(0, len(paths), AT_ONCE):
        some = tuple(paths[first : first + AT_ONCE])
        removed += client.call("discard", Discard(paths=some), Discarded).removed
    typer.echo(f"removed: {removed}")


def _show(found: ResultList, *, json: bool) -> None:
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    from hpcserve.cli.terminal import show, table

    if not found.results:
        typer.echo("no results in files")
        return
    now_s = time.time()
    made = table("result", "size", "written", "delivered", "is kept", folded=("result",), numbers=("size",))
    for each in found.results:
        path = printable(each.path)  # a servable's code has named the file
        delivered = "no" if each.delivered_s is None else f"{span(now_s - each.delivered_s)} ago"
        written = f"{span(now_s - each.written_s)} ago"
        made.add_row(path, amount(each.size_bytes), written, delivered, _kept(each, now_s))
    more = (f"and {found.more} more, younger ones",) if found.more else ()
    show(made, *more)


def _kept(each: ResultView, now_s: float) -> str:
    if each.held:
        return "until it has arrived: hpcserve transfers"
    if each.until_s is None:
        return "until it is delivered"
    return f"{span(each.until_s - now_s)} more"
