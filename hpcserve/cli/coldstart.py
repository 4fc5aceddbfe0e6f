"""How long the phases of cold starts took, as ``hpcserve status`` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcserve.types import PHASES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table

    from hpcserve.wire.admin import Status

TITLE = "cold starts, in seconds"


def cold_starts(status: Status) -> Table | None:
    """A row for each pilot, and one for each replica in it: those whose phases are known. None: there is no such one.

    There is a column for each phase that was measured.
    """
    from hpcserve.cli.terminal import table

    rows = list(_rows(status))
    measured = tuple(phase for phase in PHASES if any(phase in phases for _, phases in rows))
    if not measured:
        return None
    made = table("start of", *measured, folded=("start of",), numbers=measured)
    for name, phases in rows:
        made.add_row(name, *(_seconds(phases.get(phase)) for phase in measured))
    return made


def _rows(status: Status) -> Iterator[tuple[str, Mapping[str, float]]]:
    replicas = [replica for each in status.deployments for replica in each.replicas]
    for pilot in status.pilots:
        if pilot.phases:
            yield pilot.pilot, pilot.phases
        yield from ((each.replica, each.phases) for each in replicas if each.phases and each.pilot == pilot.pilot)


def _seconds(took_s: float | None) -> str:
    if took_s is None:
        return ""
    return f"{took_s:.2f}" if took_s < 100 else f"{took_s:.0f}"
