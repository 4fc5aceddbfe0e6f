"""The rows of the store as values. No behaviour."""

from __future__ import annotations

from typing import Any, Self

import msgspec
import sqlalchemy as sa

from hpcserve.types import DeploymentName, Digest, EndpointName, PilotId


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Base: a struct whose fields are the columns of a table. Times are seconds since 1970, UTC."""

    @classmethod
    def of(cls, row: sa.Row[Any]) -> Self:
        """The value of a row that the database gave."""
        return cls(**row._mapping)

    def columns(self) -> dict[str, object]:
        """The value of each column."""
        return msgspec.structs.asdict(self)


class ServableRow(Row, frozen=True):
    """One published version. ``path``: the directory with its files; ``manifest_json``: the whole manifest."""

    name: str
    version: Digest
    manifest_json: str
    path: str
    created_s: float


class DeploymentRow(Row, frozen=True):
    """A version that is to be served at ``endpoint`` by so many replicas, and what is wanted of it.

    With ``max_replicas`` their number follows the demand, and is ``replicas`` at least. Without an ``owner`` it is
    nobody's.
    """

    name: DeploymentName
    servable: str
    version: Digest
    replicas: int
    endpoint: EndpointName
    created_s: float
    objective_ms: float | None = None
    max_batch_size: int | None = None
    max_queue_bytes: int | None = None
    max_queue_s: float | None = None
    kill_cancelled_s: float | None = None
    max_replicas: int | None = None
    hot_replicas: int | None = None
    idle_s: float | None = None
    owner: str = ""


class NameRow(Row, frozen=True):
    """A servable's name: whose it is, and the rules, as JSON, that say to whom it is visible. No owner: nobody's."""

    name: str
    owner: str
    visible_to: str

    @classmethod
    def made(cls, name: str, owner: str, visible_to: tuple[str, ...]) -> NameRow:
        """A row of these rules."""
        return cls(name=name, owner=owner, visible_to=msgspec.json.encode(visible_to).decode())

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that say to whom it is visible."""
        return msgspec.json.decode(self.visible_to, type=tuple[str, ...])


class RanRow(Row, frozen=True):
    """What a replica ran, and in whose deployment: for its log outlives both."""

    replica: str
    servable: str
    owner: str


class ServedRow(Row, frozen=True):
    """The ``version`` that served last in a deployment, and why a wanted one could not be started in its place.

    ``failed`` and ``reason`` are that version and the cause; both are empty if none failed.
    """

    name: DeploymentName
    version: Digest
    failed: str = ""
    reason: str = ""


class PilotRow(Row, frozen=True):
    """A pilot job.

    ``job``: the scheduler's own id of it; ``restarts``: how often the scheduler has requeued it, each time as a new
    ``incarnation``; ``secret_sha256``: of its one-time secret, in hex; ``public_key``: its
    agent's CURVE key, in hex, once it has enrolled. ``nodes`` and ``walltime_s``: what it asked for; 0: what the site
    says.
    """

    id: PilotId
    incarnation: str
    state: str
    secret_sha256: str
    submitted_s: float
    job: str | None = None
    host: str | None = None
    public_key: str | None = None
    ended_s: float | None = None
    cause: str = ""
    restarts: int = 0
    nodes: int = 0
    walltime_s: float = 0.0


class StagedRow(Row, frozen=True):
    """A staged result: the file ``name`` in the directory of its caller, ``owner``; when its client had it, if so."""

    owner: str
    name: str
    size_bytes: int
    written_s: float
    delivered_s: float | None = None
