"""Transfer tasks as they come to be: which deliveries travel together, and what is known of those that do.

No rules of how a task goes on: those are :mod:`hpcserve.core.transfers`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hpcserve.core.delivery import Delivery, Limits, Progress, Trouble
from hpcserve.core.faults import Bearing


@dataclass
class Shipment:
    """Deliveries that travel in one task. Times are seconds of the book's clock."""

    owner: str
    ids: list[str]
    submission: str = ""
    task: str = ""
    at: float = 0.0
    pause_s: float = 0.0
    busy: bool = False
    bad_since: float | None = None
    cancelled: bool = False
    unsure: bool = False  # whether it was submitted
    unanswered: float = float("-inf")  # when it was last submitted without an answer
    since: float = 0.0  # when it got its submission id, or before
    unwanted_since: float | None = None  # when Globus did not hear first that it is to be cancelled
    lost: Trouble | None = None  # what it ends for, if it was not
    stale: bool = False  # its last submission id was not good
    progress: Progress | None = None
    bearing: Bearing = field(default_factory=Bearing)
    login: dict[str, Any] | None = None
    refused: bool = False  # for that login, when it was submitted
    refused_by: str = ""  # the login by which it was, the first time
    tried: list[dict[str, Any]] = field(default_factory=list)  # what it was refused for before logins of its owner's
    offered: bool = False  # to its owner, to submit it
    lacks: Trouble | None = None  # the login at the service without which it is not known what Transfer wants
    finding: bool = False  # what is being done is to look for its task
    handed_until: float = float("-inf")  # so long its owner may be about to
    reported: str = ""  # the task that its owner has submitted

    def went_well(self) -> None:
        """A step has."""
        self.pause_s, self.bad_since, self.login = 0.0, None, None
        self.lacks, self.stale = None, False

    def is_bad_too_long(self, now: float, limits: Limits) -> bool:
        """Whether nothing has gone well for as long as that is borne."""
        return self.bad_since is not None and now - self.bad_since >= limits.faults_s

    def pause(self, now: float, asked_s: float, limits: Limits, *, anew: bool = False) -> None:
        """Nothing is done for a time, which grows; ``asked_s``: for as long at least."""
        longer = 0.0 if anew else self.pause_s * 1.5
        self.pause_s = min(max(longer, limits.shortest_pause_s), limits.longest_pause_s)
        self.at = now + max(self.pause_s, asked_s)


def asked_of(login: dict[str, Any] | None) -> dict[str, Any]:
    """What a login has to be like; the message to the person is no part of that."""
    wanted = (login or {}).get("authorization_parameters", {})
    return {name: value for name, value in wanted.items() if name != "session_message"}


def named(each: Delivery) -> str:
    """What its owner has named, as far as can be seen: the directory that it goes to, or the file that it is to be."""
    keeps_its_name = each.target.path == f"{each.target.directory}{each.name}"
    return each.target.directory if keeps_its_name else each.target.path


def batches(
    waiting: Iterable[Delivery],
    alone: Callable[[Delivery], str],
    has_room: Callable[[str, int], bool],
    limits: Limits,
    now: float,
) -> list[list[Delivery]]:
    """The shipments that may begin now.

    Args:
        waiting: What waits for its turn, in its order.
        alone: What has to be the same of all that one travels with; empty: nothing.
        has_room: Whether an owner, for whom so many begin now, may have one more.
        limits: What the site sets.
        now: See the book.
    """
    lines: dict[tuple[str, ...], list[Delivery]] = {}
    for each in waiting:
        lines.setdefault((each.owner, each.source.collection, each.target.collection, alone(each)), []).append(each)
    begun: dict[str, int] = {}
    chosen = []
    for (owner, *_), line in sorted(lines.items(), key=lambda item: item[1][0].asked_s):
        rest = line
        while rest and has_room(owner, begun.get(owner, 0)):
            batch = _first(rest, limits)
            full = len(batch) < len(rest) or len(batch) >= limits.batch_files
            if not full and batch[0].asked_s + limits.batch_wait_s > now:
                break
            chosen.append(batch)
            begun[owner] = begun.get(owner, 0) + 1
            rest = rest[len(batch) :]
    return chosen


def _first(line: list[Delivery], limits: Limits) -> list[Delivery]:
    """As many from the front as one task takes; no two of them to the same path."""
    batch: list[Delivery] = []
    size, targets = 0, set()
    for each in line[: limits.batch_files]:
        size += each.size_bytes
        if batch and (size > limits.batch_bytes or each.target in targets):
            break
        targets.add(each.target)
        batch.append(each)
    return batch
