"""``hpcserve logs``: the last lines of what a replica, a pilot or a process of the daemon has printed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.options import open_client

if TYPE_CHECKING:
    from hpcserve.client import Client

LOOK_S = 0.5
FOLLOWED_LINES = 2000
ANCHOR_CHARACTERS = 4000


def command(
    ctx: typer.Context,
    *,
    name: Annotated[
        str, typer.Argument(help="A deployment, replica, pilot, or broker, controller, admission, supervisor.")
    ],
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many lines.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
) -> None:
    """Show the end of a log."""
    with open_client(ctx) as client:
        seen = _read(client, name, lines)
        for log, text in seen.items():
            _show(log, text, titled=len(seen) > 1)
        while follow:
            time.sleep(LOOK_S)
            now = _read(client, name, FOLLOWED_LINES)
            for log, text in now.items():
                _show(log, added(seen.get(log, ""), text), titled=len(now) > 1)
            seen = now


def _read(client: Client, name: str, lines: int) -> dict[str, str]:
    from hpcserve.wire.admin import AskLogs, Logs

    return {log.name: log.text for log in client.call("logs", AskLogs(name=name, lines=lines), Logs).logs}


def _show(log: str, text: str, *, titled: bool) -> None:
    if text:
        typer.echo(f"==> {log} <==\n{text}" if titled else text, nl=not text.endswith("\n"))


def added(before: str, now: str) -> str:
    """What ``now`` has behind ``before``; both are the last lines of one log, at two times.

    The end of ``before`` is looked for in ``now``; when it is not there, all of ``now`` is new.
    """
    anchor = before[-ANCHOR_CHARACTERS:]
    at = now.rfind(anchor)
    return now if at < 0 else now[at + len(anchor) :]
