"""``hpcserve logs``: the last lines of what a replica, a pilot or a process of the daemon has printed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.options import count, open_client
from hpcserve.cli.terminal import note

if TYPE_CHECKING:
    from hpcserve.client import Client
    from hpcserve.wire.admin import AskLogs, LogText

LOOK_S = 0.5


def command(
    ctx: typer.Context,
    *,
    name: Annotated[
        str, typer.Argument(help="A deployment, replica, pilot, or broker, controller, admission, supervisor.")
    ],
    lines: Annotated[
        int, typer.Option("--lines", "-n", parser=count, metavar="N", help="How many lines; 0 for none.")
    ] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
) -> None:
    """Show the end of a log."""
    from hpcserve.wire.admin import AskLogs

    with open_client(ctx) as client:
        shown = _Shown()
        logs = _ask(client, AskLogs(name=name, lines=lines))
        shown.add(logs)
        if not follow:
            shown.end_line()
        if lines and not any(log.text for log in logs):
            note("nothing printed yet" if logs else "none of its replicas has been started yet; see: hpcserve status")
        marks: dict[str, str] = {}
        while follow:
            if not any(log.more for log in logs):
                time.sleep(LOOK_S)
            marks |= {log.name: log.mark for log in logs}
            logs = _ask(client, AskLogs(name=name, after=marks))
            shown.add(logs)


def _ask(client: Client, arguments: AskLogs) -> tuple[LogText, ...]:
    from hpcserve.wire.admin import Logs

    return client.call("logs", arguments, Logs).logs


class _Shown:
    """What is on the screen: whose text came last, and whether its line is complete."""

    def __init__(self) -> None:
        self._last = ""
        self._in_line = False

    def add(self, logs: tuple[LogText, ...]) -> None:
        """Shows what is new, below the log's name where there are several."""
        for log in logs:
            if not log.text:
                continue
            if len(logs) > 1 and log.name != self._last:
                self.end_line()
                typer.echo(f"==> {log.name} <==")
            typer.echo(log.text, nl=False)
            self._last, self._in_line = log.name, not log.text.endswith("\n")

    def end_line(self) -> None:
        """Ends the line that its writer has not."""
        if self._in_line:
            typer.echo()
            self._in_line = False
