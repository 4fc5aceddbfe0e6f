"""What the decisions of ``core/`` ask the processes to do: frozen values, carried out in order.

Connections are opaque bytes here; ``body`` is whatever the process gave with the event.
"""

from __future__ import annotations

import msgspec

from hpcserve.core.ledger import Entry
from hpcserve.errors import HpcserveError
from hpcserve.types import Counter, DeploymentName, ReplicaId, RequestKey, SessionId


class Action(msgspec.Struct, frozen=True, gc=False):
    """Base of the actions."""


class Give(Action, frozen=True):
    """Send the entry's request to a replica, with what is to be released there."""

    connection: bytes
    entry: Entry
    seq: int
    remaining_ms: int | None
    releases: tuple[RequestKey, ...]


class Forward(Action, frozen=True):
    """Pass a result on to its client."""

    connection: bytes
    body: object


class Tell(Action, frozen=True):
    """Send a client an error as the answer to one of its requests."""

    connection: bytes
    session: SessionId
    id: Counter
    error: HpcserveError


class Ask(Action, frozen=True):
    """Ask a client to send requests again."""

    connection: bytes
    ids: tuple[Counter, ...]


class Fetch(Action, frozen=True):
    """Ask a replica to send results again."""

    connection: bytes
    keys: tuple[RequestKey, ...]


class More(Action, frozen=True):
    """Tell a replica how much of a stream its reader has taken."""

    connection: bytes
    key: RequestKey
    received: int
    again: bool


class Release(Action, frozen=True):
    """Tell a replica what it need not keep."""

    connection: bytes
    keys: tuple[RequestKey, ...]


class GiveBack(Action, frozen=True):
    """Have a replica give back so many requests that it has not begun."""

    connection: bytes
    most: int


class Census(Action, frozen=True):
    """Ask a replica what it holds, and forbid it to take anything numbered up to ``fence``."""

    connection: bytes
    fence: int


class Probe(Action, frozen=True):
    """Find out whether a client's connection is still there."""

    connection: bytes


class ReportHung(Action, frozen=True):
    """A replica runs a request long past its deadline."""

    replica: ReplicaId
    overdue_s: float


class ReportUnwanted(Action, frozen=True):
    """A replica has for so long run only what nobody waits for, and is to be killed."""

    replica: ReplicaId
    for_s: float


class ReportAway(Action, frozen=True):
    """An agent or a replica has had no connection for so long that its node may be lost."""

    subject: str
    role: str
    for_s: float


class ReportLacking(Action, frozen=True):
    """Requests wait for a deployment that has no replica."""

    deployment: DeploymentName


class ReportIdle(Action, frozen=True):
    """A retiring replica holds nothing any more."""

    replica: ReplicaId


AnyAction = (
    Give
    | Forward
    | Tell
    | Ask
    | Fetch
    | More
    | Release
    | GiveBack
    | Census
    | Probe
    | ReportHung
    | ReportUnwanted
    | ReportAway
    | ReportLacking
    | ReportIdle
)
