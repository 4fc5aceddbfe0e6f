"""``hpcserve status``: the daemon, what it serves, and what runs it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from hpcserve.cli.coldstart import TITLE, cold_starts
from hpcserve.cli.options import open_client
from hpcserve.core.losses import loss_in_words
from hpcserve.core.spans import counted, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from hpcserve.client import Client
    from hpcserve.wire.admin import DeploymentView, ReplicaView, Status

WATCH_S = 1.0
SHORT = 12
"""So much of a version is shown: enough to name it by."""
LAST_WORDS = 12
"""Most lines of the traceback, or of the log, of a replica that made its deployment fail."""
PROCESSES = ("supervisor", "broker", "controller", "admission")
MOST_LOSSES = 5
"""So many of the lost replicas are shown, the last ones."""
COLOURS = {
    **dict.fromkeys(("ready", "running"), "green"),
    **dict.fromkeys(("starting", "connecting", "queued"), "yellow"),
    **dict.fromkeys(("paused", "idle", "suspended", "draining", "retiring", "retired", "stopping", "leaving"), "cyan"),
    **dict.fromkeys(("failed", "unknown", "unreachable"), "red"),
}
"""It works; it will; it goes, as it should; something is wrong."""


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
            _watch(client)
        else:
            from hpcserve.cli.terminal import show

            show(*drawn(_ask(client)))


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


def _watch(client: Client) -> None:
    """In one place of the screen where that can be; else below one another, with an empty line between."""
    from hpcserve.cli.terminal import console, show

    screen = console()
    if screen.is_terminal and not screen.is_dumb_terminal:
        _live(client, screen)
    show(*drawn(_ask(client)))
    while True:
        time.sleep(WATCH_S)
        show("", *drawn(_ask(client)))


def _live(client: Client, screen: Console) -> NoReturn:
    from rich.console import Group
    from rich.live import Live

    with Live(Group(*drawn(_ask(client))), console=screen, screen=False, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(Group(*drawn(_ask(client))), refresh=True)


def drawn(status: Status) -> Iterator[RenderableType]:
    """The daemon in words, then a table of each kind of thing that there is."""
    yield from _daemon(status)
    if status.deployments:
        yield from _titled("deployments", _deployments(status))
        yield from _errors(status)
        yield from _plans(status)
    if any(each.queued or each.refused or each.expired for each in status.deployments):
        yield from _titled("queues", _queues(status))
    if any(each.replicas for each in status.deployments):
        yield from _titled("replicas", _replicas(status))
        yield from _causes(status)
    if any(replica.devices for each in status.deployments for replica in each.replicas):
        yield from _titled("GPUs", _devices(status))
    if any(replica.learned for each in status.deployments for replica in each.replicas):
        yield from _titled("batches", _batches(status))
    if status.pilots:
        yield from _titled("pilots", _pilots(status))
        yield from _waiting(status)
    if status.losses:
        yield from _losses(status)
    starts = cold_starts(status)
    if starts is not None:
        yield from _titled(TITLE, starts)
    if status.servables:
        yield from _titled("servables", _servables(status))


def _titled(title: str, table: Table) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(f"\n{title}", style="bold")
    yield table


def _daemon(status: Status) -> Iterator[Text]:
    from rich.text import Text

    recovering = ", recovering" if status.recovering else ""
    yield Text(f"{status.software}, service {status.service}, site {status.site}{recovering}", style="bold")
    yield Text(
        f"on {status.host} for {span(status.uptime_s)}, epoch {status.epoch}, "
        f"sessions: {status.sessions}, held: {size(status.held_bytes)}"
    )
    yield Text(
        f"requests: {status.requests}, {status.answered} answered, {status.failed} failed, "
        f"{status.refused} refused, {status.requeued} requeued"
    )
    if status.staged_results:
        yield Text(_staged(status))
    if status.trouble:
        yield Text(status.trouble, style="red")
    if status.processes:
        yield Text("pids: " + ", ".join(f"{name} {pid}" for name, pid in status.processes.items()))
    unseen = [name for name in PROCESSES if name not in status.processes]
    if unseen:  # noted nowhere: the disk is full, or it has just ended
        yield Text(f"restarting, or of unknown pid: {', '.join(unseen)}", style=COLOURS["unknown"])


def _staged(status: Status) -> str:
    """How much lies in files, how much of that for want of a delivery, and what room is left."""
    told = f"staged results: {status.staged_results}, {size(status.staged_bytes)}"
    if status.staged_free_bytes is not None:
        told += f", {size(status.staged_free_bytes)} free"
    if status.undelivered_since_s is None:
        return told
    age = span(time.time() - status.undelivered_since_s)
    waiting = f"{status.undelivered_results}, {size(status.undelivered_bytes)}, the oldest for {age}"
    return f"{told}; undelivered: {waiting}; see: hpcserve results --everybody"


def _deployments(status: Status) -> Table:
    from hpcserve.cli.terminal import table

    numbers = ("ready", "queued", "restarts")
    made = table("endpoint", "version", "state", *numbers, folded=("endpoint",), numbers=numbers)
    for each in status.deployments:
        made.add_row(
            _name(each),
            each.version[:SHORT],
            _coloured(each.state),
            f"{_ready(each)}/{each.wanted}",
            str(each.queued),
            str(each.restarts),
        )
    return made


def _queues(status: Status) -> Table:
    """What waits, and what has not been run."""
    from hpcserve.cli.terminal import table

    numbers = ("queued", "bytes", "wait", "refused", "expired")
    made = table("queue", *numbers, folded=("queue",), numbers=numbers)
    for each in status.deployments:
        made.add_row(
            _name(each),
            str(each.queued),
            size(each.queued_bytes),
            "" if each.wait_s is None else f"{each.wait_s:.1f} s",
            str(each.refused),
            str(each.expired),
        )
    return made


def _name(deployment: DeploymentView) -> str:
    return ", ".join(deployment.endpoints) or deployment.deployment


def _ready(deployment: DeploymentView) -> int:
    """How many replicas of the wanted version are ready; those of others stand in the table of replicas."""
    return sum(replica.state == "ready" and replica.version == deployment.version for replica in deployment.replicas)


def _errors(status: Status) -> Iterator[Text]:
    """What went wrong, a line each: in a column it would be folded beyond recognition. Failures with last words."""
    from rich.text import Text

    for each in status.deployments:
        if each.error:
            style = COLOURS["failed" if each.state == "failed" else "starting"]
            yield Text(f"{_name(each)}: {each.error.splitlines()[0]}", style=style)
            if each.state == "failed":
                yield from (Text(f"  {line}", style="dim") for line in each.traceback.splitlines()[-LAST_WORDS:])


def _plans(status: Status) -> Iterator[Text]:
    """What is to come and why, a line for each deployment; of one that failed the error is told instead."""
    from rich.text import Text

    for each in status.deployments:
        if each.plan and each.state not in ("failed", "draining"):
            between = "" if each.max_replicas is None else f" [{each.min_replicas} to {each.max_replicas}]"
            yield Text(f"{_name(each)}: plan{between}: {each.plan}", style="dim")


def _replicas(status: Status) -> Table:
    """With the version where not all have that of their deployment, and the ranks where one has several."""
    from hpcserve.cli.terminal import table

    mixed = any(replica.version != each.version for each in status.deployments for replica in each.replicas)
    wide = any(replica.ranks > 1 for each in status.deployments for replica in each.replicas)
    numbers = ("pid", "waiting", "answered")
    more = (*(("version",) if mixed else ()), *(("ranks",) if wide else ()))
    made = table("replica", *more, "state", "pilot", *numbers, folded=("replica", "pilot"), numbers=numbers)
    for each in status.deployments:
        for replica in each.replicas:
            made.add_row(
                replica.replica,
                *((replica.version[:SHORT],) if mixed else ()),
                *((_ranks(replica),) if wide else ()),
                _coloured(replica.state),
                replica.pilot,
                "" if replica.pid is None else str(replica.pid),
                str(replica.waiting),
                str(replica.answered),
            )
    return made


def _devices(status: Status) -> Table:
    """What each replica sees, and how it is used, by whomever."""
    from hpcserve.cli.terminal import table

    made = table("replica", "GPU", "memory", "busy", folded=("replica", "GPU"), numbers=("memory", "busy"))
    for each in status.deployments:
        for replica in each.replicas:
            for device in replica.devices:
                busy = "" if device.busy_percent is None else f"{device.busy_percent} %"
                memory = f"{size(device.used_bytes)} of {size(device.total_bytes)}"
                made.add_row(replica.replica, f"{device.name} ({device.id[:SHORT]}…)", memory, busy)
    return made


def _ranks(replica: ReplicaView) -> str:
    return f"{replica.ranks} on {counted(replica.nodes, 'node')}" if replica.nodes > 1 else str(replica.ranks)


def _causes(status: Status) -> Iterator[Text]:
    """What replicas wait for, or do without."""
    from rich.text import Text

    for each in status.deployments:
        for replica in each.replicas:
            if replica.cause:
                yield Text(f"{replica.replica}: {replica.cause}", style=COLOURS["starting"])


def _batches(status: Status) -> Table:
    """What each replica has learned: how long a batch of n samples takes, and how many samples are of use."""
    from hpcserve.cli.terminal import table

    numbers = ("batches", "mean", "at most")
    columns = ("method", "replica", *numbers, "n samples take")
    made = table(*columns, folded=("method", "replica", "n samples take"), numbers=numbers)
    for each in status.deployments:
        for replica in each.replicas:
            methods = Counter(kind.method for kind in replica.learned)
            for kind in replica.learned:
                name = kind.method if methods[kind.method] == 1 else f"{kind.method}({kind.inputs})"
                line = f"{kind.fixed_us / 1000:.3g} ms + n × {kind.per_sample_us / 1000:.3g} ms"
                made.add_row(name, replica.replica, str(kind.batches), f"{kind.mean:.1f}", str(kind.limit), line)
    return made


def _pilots(status: Status) -> Table:
    from hpcserve.cli.terminal import table

    wide = any(replica.slots > 1 for each in status.deployments for replica in each.replicas)
    room = ("replicas", "slots") if wide else ("replicas",)
    made = table("pilot", "state", "job", "host", *room, "walltime left", folded=("pilot", "job", "host"))
    for each in status.pilots:
        left = "" if each.walltime_left_s is None else span(each.walltime_left_s)
        used = (str(each.replicas), f"{each.used}/{each.slots}") if wide else (f"{each.replicas}/{each.slots}",)
        made.add_row(each.pilot, _coloured(each.state), each.job, each.host, *used, left)
    return made


def _waiting(status: Status) -> Iterator[Text]:
    """Why pilots do not run, a line for each reason. Why nothing is known of them may stand above already."""
    from rich.text import Text

    above = [each.error.splitlines()[0] for each in status.deployments if each.error]
    told: dict[str, list[str]] = {}
    for each in status.pilots:
        if each.waits_for and not (each.state == "unknown" and any(each.waits_for in error for error in above)):
            guess = "" if each.starts_in_s is None else f"; expected to start in {span(each.starts_in_s)}"
            told.setdefault(f"{each.waits_for}{guess}", []).append(each.pilot)
    for why, pilots in told.items():
        yield Text(f"{', '.join(pilots)}: {why}", style=COLOURS["starting"])


def _losses(status: Status) -> Iterator[Text]:
    """The replicas that were lost last, and why, a line each; by themselves those that had finished what they ran."""
    from rich.text import Text

    last = status.losses[-MOST_LOSSES:]
    for title, drained in (("lost replicas", False), ("drained replicas", True)):
        those = [each for each in last if each.drained == drained]
        if those:
            yield Text(f"\n{title}", style="bold")
        for each in those:
            ago, first = span(time.time() - each.at_s), each.cause.partition("\n")[0]
            yield Text(f"{each.replica}, {ago} ago: {loss_in_words(each.kind, first)}")


def _servables(status: Status) -> Table:
    """With who sees them, where not all do."""
    from hpcserve.cli.terminal import table

    restricted = any(each.visible_to != ("public",) for each in status.servables)
    more = ("visible to",) if restricted else ()
    folded = ("servable", "aliases", "methods", *more)
    made = table("servable", "version", "aliases", "methods", *more, folded=folded)
    for each in status.servables:
        seen = (", ".join(each.visible_to),) if restricted else ()
        made.add_row(each.name, each.version[:SHORT], ", ".join(each.aliases), ", ".join(each.methods), *seen)
    return made


def _coloured(state: str) -> Text:
    from rich.text import Text

    return Text(state, style=COLOURS.get(state, ""))


def size(count_bytes: float) -> str:
    """A number of bytes as people say it: ``512 B``, ``1.5 MiB``."""
    amount, unit = float(count_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
