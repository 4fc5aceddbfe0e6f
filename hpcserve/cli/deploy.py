"""``hpcserve deploy``: has a servable served, and waits until it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.options import ending_seconds, milliseconds, open_client, seconds, size_bytes
from hpcserve.cli.terminal import LINE_CHARACTERS, note, waiting

if TYPE_CHECKING:
    from hpcserve.client import Client
    from hpcserve.wire.admin import Deployed

LOOK_S = 0.1
OPTIONS = {
    "replicas": "--replicas",
    "objective_ms": "--objective-ms",
    "max_batch_size": "--max-batch-size",
    "max_queue_bytes": "--max-queue-bytes",
    "max_queue_s": "--max-queue-s",
    "kill_cancelled_s": "--kill-cancelled-after",
    "max_replicas": "--max-replicas",
    "hot_replicas": "--hot-replicas",
    "idle_s": "--idle-s",
}


def command(
    ctx: typer.Context,
    *,
    servable: Annotated[str, typer.Argument(metavar="SERVABLE[@VERSION|@ALIAS]", help="What to serve.")],
    endpoint: Annotated[str | None, typer.Option(metavar="NAME", help="Its endpoint; default: its name.")] = None,
    replicas: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="How many copies run (1); 0: requests wait.")
    ] = None,
    min_replicas: Annotated[
        int | None,
        typer.Option("--min-replicas", min=0, metavar="N", help="With --max-replicas: so many at least (0)."),
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option("--max-replicas", min=1, metavar="N", help="As many copies run as the demand needs, up to N."),
    ] = None,
    hot_replicas: Annotated[
        int | None,
        typer.Option("--hot-replicas", min=0, metavar="N", help="With --max-replicas: so many while it is in use."),
    ] = None,
    idle_s: Annotated[
        float | None,
        typer.Option(
            "--idle-s",
            metavar="S",
            parser=ending_seconds,
            help="With --max-replicas: kept so long when nobody asks (300).",
        ),
    ] = None,
    objective_ms: Annotated[
        float | None,
        typer.Option(
            "--objective-ms",
            metavar="MS",
            parser=milliseconds,
            help="What a request should take at its replica; batches are sized by it.",
        ),
    ] = None,
    max_batch_size: Annotated[
        int | None, typer.Option("--max-batch-size", min=1, metavar="N", help="Most samples of a batch; 1: no batches.")
    ] = None,
    max_queue_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-queue-bytes",
            metavar="BYTES",
            parser=size_bytes,
            help="So much may wait, such as 64MiB; more is refused.",
        ),
    ] = None,
    max_queue_s: Annotated[
        float | None,
        typer.Option("--max-queue-s", metavar="S", parser=seconds, help="So long may a request wait to be begun."),
    ] = None,
    kill_cancelled_s: Annotated[
        float | None,
        typer.Option(
            "--kill-cancelled-after",
            metavar="S",
            parser=seconds,
            help="Kill a replica when nobody has waited so long for what it runs.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when all replicas are ready.")] = True,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="S", parser=seconds, help="Wait so many seconds; default: on and on."),
    ] = None,
) -> None:
    """Serve a published servable at an endpoint."""
    from hpcserve.wire.admin import Deploy, Deployed

    least = _least(replicas, min_replicas, max_replicas)
    _check_scaling(max_replicas, {"--min-replicas": min_replicas, "--hot-replicas": hot_replicas, "--idle-s": idle_s})
    least = _least(replicas, min_replicas, max_replicas)
    with open_client(ctx) as client:
        arguments = Deploy(
            servable=servable,
            endpoint=endpoint,
            replicas=least,
            objective_ms=objective_ms,
            max_batch_size=max_batch_size,
            max_queue_bytes=max_queue_bytes,
            max_queue_s=None if max_queue_s == float("inf") else max_queue_s,
            kill_cancelled_s=None if kill_cancelled_s == float("inf") else kill_cancelled_s,
            max_replicas=max_replicas,
            hot_replicas=hot_replicas,
            idle_s=idle_s,
        )
        deployed = client.call("deploy", arguments, Deployed)
        told = _no_longer_set(deployed.unset, is_told=replicas is not None or min_replicas is not None)
        if told:
            typer.echo(f"no longer set, as it was not given again: {told}", err=True)
        if wait:
            try:
                with waiting(f"waiting for {deployed.replicas} replicas of {deployed.deployment}"):
                    wait_ready(client, deployed, timeout_s=timeout)
            except KeyboardInterrupt:
                note(f"{deployed.deployment} stays wanted; to take it back: hpcserve undeploy {deployed.deployment}")
                raise
    scaled = max_replicas is not None
    verb = "wanted" if not wait else "ready" if deployed.replicas else "idle" if scaled else "paused"
    many = f"{deployed.replicas} to {max_replicas}" if scaled else str(deployed.replicas)
    typer.echo(f"{deployed.endpoint}: {many} × {servable}, version {deployed.version[:12]}, {verb}")


def _least(replicas: int | None, min_replicas: int | None, max_replicas: int | None) -> int:
    """The fixed number of replicas, or the smallest where it follows the demand."""
    if max_replicas is None:
        return 1 if replicas is None else replicas
    if replicas is not None:
        raise typer.BadParameter("it is a fixed number; the least is --min-replicas", param_hint="--replicas")
    return min_replicas or 0


def _check_scaling(most: int | None, given: dict[str, float | None]) -> None:
    """Whether the options of a number of replicas that follows the demand agree.

    Raises:
        typer.BadParameter: They do not.
    """
    for option, value in given.items():
        if value is not None and most is None:
            told = "it goes with --max-replicas"
            if option == "--min-replicas":
                told += "; a fixed number is --replicas"
            raise typer.BadParameter(told, param_hint=option)
        if value is not None and most is not None and option != "--idle-s" and value > most:
            raise typer.BadParameter(f"{value}: expected at most --max-replicas, {most}", param_hint=option)


def _no_longer_set(unset: dict[str, float], *, is_told: bool) -> str:
    """The options that would set it again; ``is_told``: how many replicas there are to be was given anew."""
    names = {**OPTIONS, "replicas": "--min-replicas"} if "max_replicas" in unset else OPTIONS
    given = {name: value for name, value in unset.items() if name != "replicas" or not is_told}
    if "max_replicas" in unset and not given.get("replicas"):
        given.pop("replicas", None)
    return " ".join(f"{names.get(name, name)} {value:g}" for name, value in given.items())


def wait_ready(client: Client, deployed: Deployed, *, timeout_s: float | None = None) -> None:
    """Returns when all replicas of a deployment are ready; says meanwhile why one has ended, and what is in their way.

    Raises:
        DeploymentFailed: They cannot start.
        NotFound: Somebody took the deployment back, or deployed another version.
        DeadlineExceeded: It takes longer than ``timeout_s``.
    """
    from hpcserve.cli.hindrance import Hindrance
    from hpcserve.cli.lasting import warn_if_it_ends
    from hpcserve.errors import DeadlineExceeded, DeploymentFailed, NotFound
    from hpcserve.wire.admin import AskStatus, Status

    until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    has_told = False
    restarts, told, hindrance = None, "", Hindrance()
    while True:
        status = client.call("status", AskStatus(), Status)
        has_told = has_told or warn_if_it_ends(client, status)
        found = next((each for each in status.deployments if each.deployment == deployed.deployment), None)
        if found is None or found.version != deployed.version:
            raise NotFound(
                f"deployment {deployed.deployment} was replaced or undeployed meanwhile; see: hpcserve status"
            )
        if found.state in ("ready", "paused", "idle"):
            return
        if found.state == "failed":
            raise DeploymentFailed(
                f"deployment {found.deployment} cannot start: {found.error}",
                remote_traceback=found.traceback or None,
            )
        if restarts is None:
            restarts = found.restarts
        if found.restarts > restarts and found.error and found.error != told:
            told = found.error
            note(f"starting again after: {told.splitlines()[0][:LINE_CHARACTERS]}")
            hindrance.is_told(told)
        if lasts := hindrance.news(found.error, time.monotonic()):
            note(f"{sum(each.state == 'ready' for each in found.replicas)} of {found.wanted} are ready: {lasts}")
        if time.monotonic() >= until:
            reason = f": {found.error.splitlines()[0]}" if found.error else ""
            raise DeadlineExceeded(
                f"deployment {found.deployment} is still {found.state} after {timeout_s:g} s{reason}; "
                "see: hpcserve status"
            )
        time.sleep(LOOK_S)
