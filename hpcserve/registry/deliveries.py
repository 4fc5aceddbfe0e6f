"""Deliveries by Globus Transfer in the store, and the logins that are kept for them, encrypted."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from hpcserve.core.delivery import Delivery, End, State
from hpcserve.registry import schema
from hpcserve.registry.rows import Row
from hpcserve.registry.store import Store


class DeliveryRow(Row, frozen=True):
    """A :class:`hpcserve.core.delivery.Delivery`, and the SHA-256 of the token by which its owner was in last."""

    id: str
    owner: str
    name: str
    source_collection: str
    source_path: str
    target_collection: str
    target_path: str
    size_bytes: int
    asked_s: float
    state: State
    submission: str
    task: str
    why: str
    ended_s: float | None
    token_sha256: str

    @classmethod
    def made(cls, delivery: Delivery, token_sha256: str) -> DeliveryRow:
        """The row of a delivery."""
        return cls(
            id=delivery.id,
            owner=delivery.owner,
            name=delivery.name,
            source_collection=delivery.source.collection,
            source_path=delivery.source.path,
            target_collection=delivery.target.collection,
            target_path=delivery.target.path,
            size_bytes=delivery.size_bytes,
            asked_s=delivery.asked_s,
            state=delivery.state,
            submission=delivery.submission,
            task=delivery.task,
            why=delivery.why,
            ended_s=delivery.ended_s,
            token_sha256=token_sha256,
        )

    @property
    def delivery(self) -> Delivery:
        """The delivery of the row."""
        return Delivery(
            self.id,
            self.owner,
            self.name,
            End(self.source_collection, self.source_path),
            End(self.target_collection, self.target_path),
            self.size_bytes,
            self.asked_s,
            self.state,
            self.submission,
            self.task,
            self.why,
            self.ended_s,
        )


class KeptLogin(Row, frozen=True):
    """A refresh token of an owner, encrypted."""

    owner: str
    sealed: str


def put_deliveries(store: Store, rows: Iterable[DeliveryRow]) -> None:
    """Writes these down, all or none; the same id is replaced."""
    with store.transaction() as connection:
        for row in rows:
            connection.execute(sa.delete(schema.deliveries).where(schema.deliveries.c.id == row.id))
            connection.execute(sa.insert(schema.deliveries).values(row.columns()))


def deliveries(store: Store) -> tuple[DeliveryRow, ...]:
    """Every delivery, in the order in which they were asked for."""
    table = schema.deliveries
    with store.transaction() as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.asked_s, table.c.id))
        return tuple(DeliveryRow.of(row) for row in rows)


def forget_deliveries(store: Store, ids: Iterable[str]) -> None:
    """Removes these."""
    with store.transaction() as connection:
        for id in ids:
            connection.execute(sa.delete(schema.deliveries).where(schema.deliveries.c.id == id))


def keep_login(store: Store, row: KeptLogin) -> None:
    """Keeps a login; an owner has one at most."""
    with store.transaction() as connection:
        connection.execute(sa.delete(schema.kept_logins).where(schema.kept_logins.c.owner == row.owner))
        connection.execute(sa.insert(schema.kept_logins).values(row.columns()))


def kept_logins(store: Store) -> tuple[KeptLogin, ...]:
    """All logins that are kept."""
    with store.transaction() as connection:
        return tuple(KeptLogin.of(row) for row in connection.execute(sa.select(schema.kept_logins)))


def forget_login(store: Store, owner: str) -> None:
    """Removes an owner's."""
    with store.transaction() as connection:
        connection.execute(sa.delete(schema.kept_logins).where(schema.kept_logins.c.owner == owner))
