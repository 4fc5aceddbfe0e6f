"""The durable state of the daemon: servables, their aliases, deployments, pilot jobs.

Plain rows in and out; what they mean is decided by the controller. Blocking, and for one thread alone.
Each call is one transaction: when it returns, it is on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import sqlalchemy as sa

from hpcserve.core.spelling import nearest
from hpcserve.errors import ConfigError, Conflict, UnknownServable
from hpcserve.registry import schema
from hpcserve.registry.engine import open_engine, transaction
from hpcserve.registry.rows import DeploymentRow, NameRow, PilotRow, RanRow, Row, ServableRow, ServedRow, StagedRow
from hpcserve.servable.manifest import check_name
from hpcserve.types import DeploymentName, Digest, PilotId

LATEST = "latest"
"""The alias that every publication moves."""

SHORTEST_PREFIX = 4
"""Fewest characters of a version that stand for it."""


class Store:
    """Opens the database at ``place`` and brings its schema up to date.

    Args:
        place: The path of SQLite's file, or a SQLAlchemy URL such as ``postgresql+psycopg://host/name``.

    Raises:
        ConfigError: The URL is wrong, or the database is of a later version than this program.
        StorageFull: Its disk or quota is full. So do all methods that write.
        Conflict: Another process holds the database.
    """

    def __init__(self, place: str | Path) -> None:
        self._engine = open_engine(place)
        try:
            with self.transaction() as connection:
                schema.migrate(connection)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Closes the database."""
        self._engine.dispose()

    # --- servables ------------------------------------------------------------------------------------

    def add_servable(self, row: ServableRow, name: NameRow | None = None) -> bool:
        """Writes a version down, and moves ``latest`` to it.

        Args:
            row: The version.
            name: Whose its name is from now on, and who sees it.

        Returns:
            False if it was known; its manifest and path are then replaced.

        Raises:
            Conflict: The name has become somebody else's meanwhile.
        """
        with self.transaction() as connection:
            if name is not None:
                table = schema.names
                owners = connection.execute(sa.select(table.c.owner).where(table.c.name == name.name)).scalars().all()
                if any(owner != name.owner for owner in owners):
                    raise Conflict(f"somebody else has published {name.name} at the same moment; take another name")
                _put(connection, table, {"name": name.name}, name)
            new = _put(connection, schema.servables, {"name": row.name, "version": row.version}, row)
            _set_alias(connection, row.name, LATEST, row.version)
        return new

    def servables(self) -> tuple[ServableRow, ...]:
        """Every version, by name and time."""
        table = schema.servables
        with self.transaction() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.name, table.c.created_s))
            return tuple(ServableRow.of(row) for row in rows)

    def servable(self, name: str, version: Digest) -> ServableRow:
        """One version, by its whole digest.

        Raises:
            UnknownServable: There is none.
        """
        table = schema.servables
        with self.transaction() as connection:
            row = connection.execute(
                sa.select(table).where(table.c.name == name, table.c.version == version)
            ).one_or_none()
        if row is None:
            raise UnknownServable(f"no servable {name}@{version} is published")
        return ServableRow.of(row)

    def version(self, version: Digest) -> ServableRow | None:
        """The servable of which this is a version, if it is published."""
        table = schema.servables
        with self.transaction() as connection:
            row = connection.execute(sa.select(table).where(table.c.version == version)).first()
        return None if row is None else ServableRow.of(row)

    def put_name(self, row: NameRow) -> None:
        """Writes down whose a servable's name is, and who sees it."""
        with self.transaction() as connection:
            _put(connection, schema.names, {"name": row.name}, row)

    def names(self) -> tuple[NameRow, ...]:
        """Every name under which something was published."""
        with self.transaction() as connection:
            return tuple(NameRow.of(row) for row in connection.execute(sa.select(schema.names)))

    def set_alias(self, name: str, alias: str, version: Digest) -> None:
        """Lets ``name@alias`` mean ``version``.

        Raises:
            UnknownServable: There is no such version.
            ConfigError: ``alias`` breaks the rule for names.
        """
        try:
            check_name("an alias", alias)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.servable(name, version)
        with self.transaction() as connection:
            _set_alias(connection, name, alias, version)

    def aliases(self, name: str) -> dict[str, Digest]:
        """The versions of ``name`` that have an alias, by alias."""
        table = schema.aliases
        with self.transaction() as connection:
            rows = connection.execute(sa.select(table).where(table.c.servable == name).order_by(table.c.alias))
            return {row.alias: Digest(row.version) for row in rows}

    def resolve(self, reference: str, hidden: Collection[str] = ()) -> tuple[str, Digest]:
        """The version that ``name`` (its latest), ``name@alias`` or ``name@first-characters`` means.

        Args:
            reference: What was written.
            hidden: Names of which whoever wrote it may not know.

        Raises:
            UnknownServable: None, or more than one; the message has the nearest names.
        """
        name, has_version, wanted = reference.partition("@")
        versions = self._versions(name, hidden)
        if not has_version:
            wanted = LATEST
        aliases = self.aliases(name)
        if wanted in aliases:
            return name, aliases[wanted]
        found = [one for one in versions if len(wanted) >= SHORTEST_PREFIX and one.startswith(wanted)]
        if len(found) == 1:
            return name, found[0]
        if found:
            several = ", ".join(one[:12] for one in found)
            raise UnknownServable(f"{reference!r} may mean {several}; write more of the version")
        known = [*aliases, *(one[:12] for one in versions)]
        raise UnknownServable(f"servable {name!r} has no version or alias {wanted!r}{nearest(wanted, known)}")

    def _versions(self, name: str, hidden: Collection[str]) -> list[Digest]:
        table = schema.servables
        with self.transaction() as connection:
            published = connection.execute(sa.select(table.c.name, table.c.version)).all()
        versions = [Digest(version) for servable, version in published if servable == name and name not in hidden]
        if not versions:
            names = {servable for servable, _ in published} - set(hidden)
            raise UnknownServable(f"no servable {name!r} is published{nearest(name, names)}")
        return versions

    # --- deployments ----------------------------------------------------------------------------------

    def put_deployment(self, row: DeploymentRow) -> None:
        """Writes a deployment down; one of the same name and owner is replaced.

        Raises:
            Conflict: It is somebody else's.
        """
        table = schema.deployments
        with self.transaction() as connection:
            owners = connection.execute(sa.select(table.c.owner).where(table.c.name == row.name)).scalars().all()
            if any(owner != row.owner for owner in owners):
                raise Conflict(f"somebody else has deployed at {row.name} at the same moment; take another endpoint")
            _put(connection, schema.deployments, {"name": row.name}, row)

    def remove_deployment(self, name: DeploymentName) -> bool:
        """Forgets a deployment, and what served in it. False if there was none."""
        table = schema.deployments
        with self.transaction() as connection:
            connection.execute(sa.delete(schema.served).where(schema.served.c.name == name))
            return connection.execute(sa.delete(table).where(table.c.name == name)).rowcount > 0

    def deployments(self) -> tuple[DeploymentRow, ...]:
        """Every deployment, oldest first."""
        table = schema.deployments
        with self.transaction() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.created_s, table.c.name))
            return tuple(DeploymentRow.of(row) for row in rows)

    def put_served(self, row: ServedRow) -> None:
        """Writes down which version of a deployment serves, unless that was taken back meanwhile."""
        deployments = schema.deployments
        with self.transaction() as connection:
            known = sa.select(deployments.c.name).where(deployments.c.name == row.name)
            if connection.execute(known).first() is not None:
                _put(connection, schema.served, {"name": row.name}, row)

    def served(self) -> tuple[ServedRow, ...]:
        """What served last in each deployment in which something did."""
        with self.transaction() as connection:
            return tuple(ServedRow.of(row) for row in connection.execute(sa.select(schema.served)))

    def put_ran(self, rows: Iterable[RanRow]) -> None:
        """Writes down what replicas run."""
        with self.transaction() as connection:
            for row in rows:
                _put(connection, schema.ran, {"replica": row.replica}, row)

    def ran(self) -> tuple[RanRow, ...]:
        """What replicas ran."""
        with self.transaction() as connection:
            return tuple(RanRow.of(row) for row in connection.execute(sa.select(schema.ran)))

    def forget_ran(self, replicas: Iterable[str]) -> None:
        """Removes what these ran: nothing is left of them."""
        with self.transaction() as connection:
            for replica in replicas:
                connection.execute(sa.delete(schema.ran).where(schema.ran.c.replica == replica))

    # --- pilots ---------------------------------------------------------------------------------------

    def put_pilot(self, row: PilotRow) -> None:
        """Writes a pilot down, before it is submitted and after each change; the same id is replaced."""
        with self.transaction() as connection:
            _put(connection, schema.pilots, {"id": row.id}, row)

    def update_pilot(
        self,
        pilot: PilotId,
        *,
        state: str | None = None,
        job: str | None = None,
        host: str | None = None,
        public_key: str | None = None,
        ended_s: float | None = None,
        cause: str | None = None,
    ) -> bool:
        """Changes what is given of a pilot. False if there is no such pilot."""
        given = {
            "state": state,
            "job": job,
            "host": host,
            "public_key": public_key,
            "ended_s": ended_s,
            "cause": cause,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        table = schema.pilots
        with self.transaction() as connection:
            if not changes:
                return connection.execute(sa.select(table.c.id).where(table.c.id == pilot)).first() is not None
            return connection.execute(sa.update(table).where(table.c.id == pilot).values(changes)).rowcount > 0

    def forget_pilots(self, state: str, *, keep: int) -> int:
        """Removes the pilots in this state but for those ``keep`` that ended last; returns how many."""
        table = schema.pilots
        here = sa.select(table.c.id).where(table.c.state == state)
        with self.transaction() as connection:
            kept = connection.execute(here.order_by(table.c.ended_s.desc(), table.c.id.desc()).limit(keep)).scalars()
            over = sa.and_(table.c.state == state, table.c.id.not_in(kept.all()))
            return connection.execute(sa.delete(table).where(over)).rowcount

    def pilots(self) -> tuple[PilotRow, ...]:
        """Every pilot, ended ones included, oldest first."""
        table = schema.pilots
        with self.transaction() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.submitted_s, table.c.id))
            return tuple(PilotRow.of(row) for row in rows)

    # --- staged results -------------------------------------------------------------------------------

    def add_staged(self, rows: Iterable[StagedRow]) -> None:
        """Writes staged results down; one that is known stays as it is."""
        table = schema.staged
        with self.transaction() as connection:
            for row in rows:
                same = sa.and_(table.c.owner == row.owner, table.c.name == row.name)
                if connection.execute(sa.select(table.c.name).where(same)).first() is None:
                    connection.execute(sa.insert(table).values(row.columns()))

    def staged_delivered(self, owner: str, names: Iterable[str], at_s: float) -> int:
        """Notes that these were delivered, the first time that it is said; returns how many of them are known."""
        table = schema.staged
        known = 0
        with self.transaction() as connection:
            for name in names:
                same = sa.and_(table.c.owner == owner, table.c.name == name)
                known += connection.execute(sa.select(table.c.name).where(same)).first() is not None
                connection.execute(sa.update(table).where(same, table.c.delivered_s.is_(None)).values(delivered_s=at_s))
        return known

    def staged(self, owner: str | None = None) -> tuple[StagedRow, ...]:
        """Every staged result, or those of one owner, oldest first."""
        table = schema.staged
        wanted = sa.select(table).order_by(table.c.written_s, table.c.owner, table.c.name)
        with self.transaction() as connection:
            rows = connection.execute(wanted if owner is None else wanted.where(table.c.owner == owner))
            return tuple(StagedRow.of(row) for row in rows)

    def forget_staged(self, keys: Iterable[tuple[str, str]]) -> None:
        """Removes those of these owners and names."""
        table = schema.staged
        with self.transaction() as connection:
            for owner, name in keys:
                connection.execute(sa.delete(table).where(table.c.owner == owner, table.c.name == name))

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """For the statements of one change, all or none."""
        return transaction(self._engine)


def _set_alias(connection: sa.Connection, name: str, alias: str, version: Digest) -> None:
    _upsert(connection, schema.aliases, {"servable": name, "alias": alias}, {"version": version})


def _put(connection: sa.Connection, table: sa.Table, key: dict[str, object], row: Row) -> bool:
    return _upsert(connection, table, key, row.columns())


def _upsert(connection: sa.Connection, table: sa.Table, key: dict[str, object], values: dict[str, object]) -> bool:
    """Writes the row of ``key``. True if it is new. In words that every database knows."""
    same = sa.and_(*(table.c[name] == value for name, value in key.items()))
    if connection.execute(sa.update(table).where(same).values(values)).rowcount:
        return False
    connection.execute(sa.insert(table).values({**values, **key}))
    return True
