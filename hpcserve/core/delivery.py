"""Deliveries by transfer tasks, as values: what is known of them, and what is to be done. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

State = Literal[
    "waiting", "prepared", "offered", "active", "inactive", "cancelling", "succeeded", "failed", "cancelled"
]
ENDED = frozenset({"succeeded", "failed", "cancelled"})


class End(NamedTuple):
    """One end of a transfer: a collection's id, and a path on it."""

    collection: str
    path: str

    @property
    def directory(self) -> str:
        """What its path lies in; ends with a slash."""
        return self.path[: self.path.rindex("/") + 1] if "/" in self.path else "/"


@dataclass(frozen=True)
class Delivery:
    """A file and where it is to go. ``why``: what it waits for, or why it failed.

    ``owner`` is the directory of its caller's staged results, ``name`` the file in it. ``submission`` and ``task``: of
    its transfer task, as soon as there is one.
    """

    id: str
    owner: str
    name: str
    source: End
    target: End
    size_bytes: int
    asked_s: float
    state: State = "waiting"
    submission: str = ""
    task: str = ""
    why: str = ""
    ended_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.state in ENDED


class Limits(NamedTuple):
    """What a site sets, and how patient to be. Seconds, but for the counts.

    ``give_up_s``: what was not submitted for so long is not any more; infinity: it waits until it is. ``sure_s``: of
    one submission id Globus makes one task for so long at least. ``deadline_s``: Globus has so long for a task, which
    has ended by then in any case. ``hand_s``: an owner to whom a submission is handed submits it within that time, or
    asks for it again.
    """

    tasks_per_owner: int = 3
    batch_files: int = 1000
    batch_bytes: int = 1 << 40
    batch_wait_s: float = 1.0
    faults_s: float = 600.0
    give_up_s: float = float("inf")
    sure_s: float = 7 * 24 * 3600.0
    deadline_s: float = 24 * 3600.0
    hand_s: float = 60.0
    shortest_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    forget_s: float = 24 * 3600.0


class Progress(NamedTuple):
    """What Globus says of a task. ``status`` in its words; ``fault`` the code of what goes wrong now, or empty.

    ``until_s``: when Globus gives it up, in seconds since 1970; None: it does not say. ``label``: the one with which it
    was submitted. ``size_bytes``: what was sent, some of it more than once where there were ``faults``.
    """

    status: str
    size_bytes: int = 0
    files: int = 0
    bytes_per_s: float = 0.0
    fault: str = ""
    details: str = ""
    cancelled: bool = False
    until_s: float | None = None
    label: str = ""
    faults: int = 0


class Trouble(NamedTuple):
    """Why a step did not succeed.

    ``again``: it may go well later. ``login``: when its owner has logged in (again); ``detail`` says how, as in
    :class:`hpcserve.errors.LoginRequired`. ``stale``: its submission id is not good any more. ``gone``: Globus knows no
    such task. ``fatal``: never. ``by_transfer``: Transfer itself wants that login, for what was asked of it; ``by``: by
    which login that was asked.
    """

    kind: Literal["again", "login", "stale", "gone", "fatal"]
    why: str
    retry_after_s: float = 0.0
    detail: dict[str, Any] | None = None
    by_transfer: bool = False
    by: str = ""


# --- actions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """These are written down as they are now."""

    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True)
class Forget:
    """These ended long ago: nothing of them is kept."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class Prepare:
    """A submission id is asked for."""

    shipment: int
    owner: str


@dataclass(frozen=True)
class Submit:
    """These files are submitted with this id."""

    shipment: int
    owner: str
    submission: str
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True)
class Find:
    """Globus is asked whether a task was submitted with this id."""

    shipment: int
    owner: str
    submission: str


@dataclass(frozen=True)
class Look:
    """Globus is asked for the task."""

    shipment: int
    owner: str
    task: str


@dataclass(frozen=True)
class Cancel:
    """The task is cancelled."""

    shipment: int
    owner: str
    task: str


Step = Prepare | Submit | Find | Look | Cancel
"""What is said to Globus."""
Action = Store | Forget | Step
