"""``hpcserve demo``: serves three models, kills the broker under load, and shows what came back.

What is done is in :mod:`hpcserve.cli.demo_run`; here is how it is shown and when it counts as passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.exits import FAILED, OK
from hpcserve.cli.terminal import complain, note

if TYPE_CHECKING:
    from hpcserve.cli.demo_run import Findings
    from hpcserve.cli.demo_surrogate import Side
    from hpcserve.cli.latency_plot import Latencies

NEXT = """\
Next:
  hpcserve up --detach                          a daemon of your own
  hpcserve publish DIR                          take a servable in: a directory with servable.toml
  hpcserve deploy NAME --replicas 2             serve it
  hpcserve run NAME --input x.npy               call it; from Python: hpcserve.Client().infer(NAME, x)
  hpcserve status --watch                       see what happens
  hpcserve down                                 take everything down"""


SITE = Annotated[
    str | None, typer.Option(metavar="NAME|PATH", help="Serve on this site's nodes; without it, on this machine.")
]


def command(
    *,
    site: SITE = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> int:
    """Serve a trained model here, call it, kill its broker, show the numbers; nothing is left behind."""
    from hpcserve.cli.stopping import Stopped, Stops

    stops = Stops()
    try:
        with stops.work():
            from hpcserve.cli.demo_run import run
        findings, latencies = run(note, stops, site)
    except Stopped:
        return stops.exit_code()
    if stops.number:
        return stops.exit_code()
    if json:
        import msgspec

        typer.echo(msgspec.json.encode(findings))
    else:
        _show(findings)
        _draw(latencies)
        if findings.surrogate.plot:
            typer.echo(f"The same as a picture: {findings.surrogate.plot}\n")
        typer.echo(NEXT)
    wrong = findings.wrong()
    for each in wrong:
        complain(each)
    return FAILED if wrong else OK


def _show(findings: Findings) -> None:
    from hpcserve.cli.terminal import show, table

    digits, pi, surrogate, recovery = findings.digits, findings.pi, findings.surrogate, findings.recovery
    shown = table("what", "result", "how")
    for row in (
        ("digits: accuracy", f"{digits.accuracy:.1%}", f"{digits.images} held-out images, one request each"),
        (
            "digits: one request",
            f"p50 {findings.latency_ms.p50:.2f} ms, p99 {findings.latency_ms.p99:.2f} ms",
            f"{findings.latency_ms.requests} calls one after the other",
        ),
        ("digits: throughput", f"{findings.requests_per_s:,.0f} requests/s", "Client.map, 64 in flight, 2 replicas"),
        (
            "digits: one batch",
            f"{findings.batch.images_per_s:,.0f} images/s",
            f"{findings.batch.images} images in one request",
        ),
        (
            "surrogate: error",
            f"RMS {surrogate.error.rms:.4f}, at most {surrogate.error.max:.3f}",
            f"{surrogate.error.answers:,} answers beside the solver's",
        ),
        ("surrogate: batching on", *_side(surrogate.batching_on, surrogate.clients)),
        ("surrogate: batching off", *_side(surrogate.batching_off, surrogate.clients)),
        ("pi", f"{pi.ndigits:,} digits, {'correct' if pi.correct else 'WRONG'}", "checked by another formula (BBP)"),
        (
            "broker killed",
            f"{recovery.in_flight} requests in flight",
            f"epoch {recovery.epochs[0]}, then {recovery.epochs[1]}",
        ),
        (
            "recovered",
            f"after {recovery.recovered_s:.2f} s",
            f"{recovery.answered} of {recovery.submitted} answered, each once",
        ),
        (
            "left running",
            f"{findings.left_running} processes, {findings.left_queued} jobs",
            "after the daemon was taken down",
        ),
    ):
        shown.add_row(*row)
    show(shown)


def _side(side: Side, clients: int) -> tuple[str, str]:
    return (
        f"{side.requests_per_s:,.0f} requests/s",
        f"{clients} clients, p50 {side.p50_ms:.1f} ms, p99 {side.p99_ms:.1f} ms",
    )


def _draw(latencies: Latencies) -> None:
    from hpcserve.cli.latency_plot import histogram
    from hpcserve.cli.terminal import console

    screen = console()
    typer.echo("\nLatency of the surrogate's requests:")
    for line in histogram(latencies, columns=screen.width, ascii_only=screen.options.ascii_only):
        typer.echo(line)
    typer.echo()
