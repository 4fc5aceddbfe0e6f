"""``hpcserve status``: the daemon, what it serves, and what runs it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.options import open_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table
    from rich.text import Text

    from hpcserve.client import Client
    from hpcserve.wire.admin import Status

WATCH_S = 1.0
COLOURS = {"ready": "green", "failed": "red", "starting": "yellow", "unknown": "red"}


def command(
    ctx: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Look again each second, until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object; with --watch, one a line.")] = False,
) -> None:
    """Show the daemon, its deployments, replicas, pilots and servables."""
    with open_client(ctx) as client:
        if json:
            _as_json(client, watch=watch)
        elif watch:
            _live(client)
        else:
            from hpcserve.cli.terminal import console

            console().print(*tables(_ask(client)))


def _ask(client: Client) -> Status:
    from hpcserve.wire.admin import AskStatus, Status

    return client.call("status", AskStatus(), Status)


def _as_json(client: Client, *, watch: bool) -> None:
    import msgspec

    while True:
        encoded = msgspec.json.encode(_ask(client))
        typer.echo(encoded if watch else msgspec.json.format(encoded, indent=2))
        if not watch:
            return
        time.sleep(WATCH_S)


def _live(client: Client) -> None:
    from rich.console import Group
    from rich.live import Live

    from hpcserve.cli.terminal import console

    with Live(Group(*tables(_ask(client))), console=console(), screen=False, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(Group(*tables(_ask(client))), refresh=True)


def tables(status: Status) -> Iterator[Table]:
    """The tables, empty ones left out."""
    yield _daemon(status)
    if status.deployments:
        yield _deployments(status)
    if any(each.replicas for each in status.deployments):
        yield _replicas(status)
    if status.pilots:
        yield _pilots(status)
    if status.servables:
        yield _servables(status)


def _daemon(status: Status) -> Table:
    from hpcserve.cli.terminal import table

    made = table("host", "up", "epoch", "sessions", "requests", "answered", "failed", "refused", "requeued", "held")
    made.title = f"{status.software}, service {status.service}, site {status.site}" + (
        ", recovering" if status.recovering else ""
    )
    counts = (status.sessions, status.requests, status.answered, status.failed, status.refused, status.requeued)
    made.add_row(status.host, span(status.uptime_s), str(status.epoch), *map(str, counts), size(status.held_bytes))
    return made


def _deployments(status: Status) -> Table:
    from hpcserve.cli.terminal import table

    made = table("endpoint", "version", "state", "ready", "queued", "restarts", "error", title="deployments")
    for each in status.deployments:
        ready = sum(replica.state == "ready" for replica in each.replicas)
        made.add_row(
            ", ".join(each.endpoints) or each.deployment,
            each.version[:12],
            _coloured(each.state),
            f"{ready}/{each.wanted}",
            str(each.queued),
            str(each.restarts),
            each.error,
        )
    return made


def _replicas(status: Status) -> Table:
    from hpcserve.cli.terminal import table

    made = table("replica", "deployment", "state", "pilot", "pid", "waiting", "answered", title="replicas")
    for each in status.deployments:
        for replica in each.replicas:
            made.add_row(
                replica.replica,
                each.deployment,
                _coloured(replica.state),
                replica.pilot,
                "" if replica.pid is None else str(replica.pid),
                str(replica.waiting),
                str(replica.answered),
            )
    return made


def _pilots(status: Status) -> Table:
    from hpcserve.cli.terminal import table

    made = table("pilot", "state", "job", "host", "replicas", "walltime left", title="pilots")
    for each in status.pilots:
        left = "" if each.walltime_left_s is None else span(each.walltime_left_s)
        made.add_row(each.pilot, _coloured(each.state), each.job, each.host, f"{each.replicas}/{each.slots}", left)
    return made


def _servables(status: Status) -> Table:
    from hpcserve.cli.terminal import table

    made = table("servable", "version", "aliases", "methods", title="servables")
    for each in status.servables:
        made.add_row(each.name, each.version[:12], ", ".join(each.aliases), ", ".join(each.methods))
    return made


def _coloured(state: str) -> Text:
    from rich.text import Text

    return Text(state, style=COLOURS.get(state, ""))


def span(seconds: float) -> str:
    """A length of time as people say it: ``42 s``, ``3 min 5 s``, ``2 h 14 min``, ``3 d 4 h``."""
    whole = int(seconds)
    for unit, below, length, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {below}"
    return f"{whole} s"


def size(count_bytes: float) -> str:
    """A number of bytes as people say it: ``512 B``, ``1.5 MiB``."""
    amount, unit = float(count_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
