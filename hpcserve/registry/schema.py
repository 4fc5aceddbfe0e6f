"""The store's tables, and the numbered steps that lead an older database to them.

A step never changes once it was released; what the tables are today is the sum of all steps. ``TABLES``
is the same in SQLAlchemy's words, and a test compares the two. Times are seconds since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from hpcserve.errors import ConfigError

TABLES = sa.MetaData()


def _text(name: str, *, key: bool = False, optional: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=optional)


servables = sa.Table(
    "servables",
    TABLES,
    _text("name", key=True),
    _text("version", key=True),
    _text("manifest_json"),
    _text("path"),
    sa.Column("created_s", sa.DOUBLE_PRECISION, nullable=False),
)
aliases = sa.Table("aliases", TABLES, _text("servable", key=True), _text("alias", key=True), _text("version"))
deployments = sa.Table(
    "deployments",
    TABLES,
    _text("name", key=True),
    _text("servable"),
    _text("version"),
    sa.Column("replicas", sa.Integer, nullable=False),
    _text("endpoint"),
    sa.Column("created_s", sa.DOUBLE_PRECISION, nullable=False),
    sa.Column("objective_ms", sa.DOUBLE_PRECISION, nullable=True),
    sa.Column("max_batch_size", sa.Integer, nullable=True),
    sa.Column("max_queue_bytes", sa.BigInteger, nullable=True),
    sa.Column("max_queue_s", sa.DOUBLE_PRECISION, nullable=True),
    sa.Column("kill_cancelled_s", sa.DOUBLE_PRECISION, nullable=True),
    sa.Column("max_replicas", sa.Integer, nullable=True),
    sa.Column("hot_replicas", sa.Integer, nullable=True),
    sa.Column("idle_s", sa.DOUBLE_PRECISION, nullable=True),
    _text("owner"),
)
served = sa.Table("served", TABLES, _text("name", key=True), _text("version"), _text("failed"), _text("reason"))
pilots = sa.Table(
    "pilots",
    TABLES,
    _text("id", key=True),
    _text("incarnation"),
    _text("state"),
    _text("job", optional=True),
    _text("secret_sha256"),
    _text("host", optional=True),
    _text("public_key", optional=True),
    sa.Column("submitted_s", sa.DOUBLE_PRECISION, nullable=False),
    sa.Column("ended_s", sa.DOUBLE_PRECISION, nullable=True),
    _text("cause"),
    sa.Column("restarts", sa.Integer, nullable=False),
    sa.Column("nodes", sa.Integer, nullable=False),
    sa.Column("walltime_s", sa.DOUBLE_PRECISION, nullable=False),
)
names = sa.Table("names", TABLES, _text("name", key=True), _text("owner"), _text("visible_to"))
ran = sa.Table("ran", TABLES, _text("replica", key=True), _text("servable"), _text("owner"))
staged = sa.Table(
    "staged",
    TABLES,
    _text("owner", key=True),
    _text("name", key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("written_s", sa.DOUBLE_PRECISION, nullable=False),
    sa.Column("delivered_s", sa.DOUBLE_PRECISION, nullable=True),
)
deliveries = sa.Table(
    "deliveries",
    TABLES,
    _text("id", key=True),
    _text("owner"),
    _text("name"),
    _text("source_collection"),
    _text("source_path"),
    _text("target_collection"),
    _text("target_path"),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("asked_s", sa.DOUBLE_PRECISION, nullable=False),
    _text("state"),
    _text("submission"),
    _text("task"),
    _text("why"),
    sa.Column("ended_s", sa.DOUBLE_PRECISION, nullable=True),
    _text("token_sha256"),
)
kept_logins = sa.Table("kept_logins", TABLES, _text("owner", key=True), _text("sealed"))
schema = sa.Table("schema", TABLES, sa.Column("version", sa.Integer, primary_key=True))

Migration = Callable[[sa.Connection], None]


_STEP_1 = (
    """CREATE TABLE servables (
        name TEXT NOT NULL, version TEXT NOT NULL, manifest_json TEXT NOT NULL, path TEXT NOT NULL,
        created_s DOUBLE PRECISION NOT NULL, PRIMARY KEY (name, version))""",
    """CREATE TABLE aliases (
        servable TEXT NOT NULL, alias TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (servable, alias))""",
    """CREATE TABLE deployments (
        name TEXT NOT NULL, servable TEXT NOT NULL, version TEXT NOT NULL, replicas INTEGER NOT NULL,
        endpoint TEXT NOT NULL, created_s DOUBLE PRECISION NOT NULL, PRIMARY KEY (name))""",
    """CREATE TABLE pilots (
        id TEXT NOT NULL, incarnation TEXT NOT NULL, state TEXT NOT NULL, job TEXT, secret_sha256 TEXT NOT NULL,
        host TEXT, public_key TEXT, submitted_s DOUBLE PRECISION NOT NULL, ended_s DOUBLE PRECISION,
        cause TEXT NOT NULL, PRIMARY KEY (id))""",
)


def _step_1(connection: sa.Connection) -> None:
    for statement in _STEP_1:
        connection.exec_driver_sql(statement)


def _step_2(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        """CREATE TABLE served (
            name TEXT NOT NULL, version TEXT NOT NULL, failed TEXT NOT NULL, reason TEXT NOT NULL,
            PRIMARY KEY (name))"""
    )


_STEP_3 = (
    "ALTER TABLE deployments ADD COLUMN objective_ms DOUBLE PRECISION",
    "ALTER TABLE deployments ADD COLUMN max_batch_size INTEGER",
)


def _step_3(connection: sa.Connection) -> None:
    for statement in _STEP_3:
        connection.exec_driver_sql(statement)


_STEP_4 = (
    "ALTER TABLE deployments ADD COLUMN max_queue_bytes BIGINT",
    "ALTER TABLE deployments ADD COLUMN max_queue_s DOUBLE PRECISION",
)


def _step_4(connection: sa.Connection) -> None:
    for statement in _STEP_4:
        connection.exec_driver_sql(statement)


def _step_5(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE deployments ADD COLUMN kill_cancelled_s DOUBLE PRECISION")


def _step_6(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE pilots ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0")


_STEP_7 = (
    "ALTER TABLE deployments ADD COLUMN max_replicas INTEGER",
    "ALTER TABLE deployments ADD COLUMN hot_replicas INTEGER",
    "ALTER TABLE deployments ADD COLUMN idle_s DOUBLE PRECISION",
    "ALTER TABLE pilots ADD COLUMN nodes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE pilots ADD COLUMN walltime_s DOUBLE PRECISION NOT NULL DEFAULT 0",
)


def _step_7(connection: sa.Connection) -> None:
    for statement in _STEP_7:
        connection.exec_driver_sql(statement)


_STEP_8 = (
    "ALTER TABLE deployments ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "CREATE TABLE names (name TEXT NOT NULL, owner TEXT NOT NULL, visible_to TEXT NOT NULL, PRIMARY KEY (name))",
    """INSERT INTO names (name, owner, visible_to) SELECT DISTINCT name, '', '["*"]' FROM servables""",
    "CREATE TABLE ran (replica TEXT NOT NULL, servable TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (replica))",
)


def _step_8(connection: sa.Connection) -> None:
    """What was published before belongs to nobody, and is public as it was."""
    for statement in _STEP_8:
        connection.exec_driver_sql(statement)


def _step_9(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        """CREATE TABLE staged (
            owner TEXT NOT NULL, name TEXT NOT NULL, size_bytes BIGINT NOT NULL, written_s DOUBLE PRECISION NOT NULL,
            delivered_s DOUBLE PRECISION, PRIMARY KEY (owner, name))"""
    )


_STEP_10 = (
    """CREATE TABLE deliveries (
        id TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, source_collection TEXT NOT NULL,
        source_path TEXT NOT NULL, target_collection TEXT NOT NULL, target_path TEXT NOT NULL,
        size_bytes BIGINT NOT NULL, asked_s DOUBLE PRECISION NOT NULL, state TEXT NOT NULL, submission TEXT NOT NULL,
        task TEXT NOT NULL, why TEXT NOT NULL, ended_s DOUBLE PRECISION, token_sha256 TEXT NOT NULL,
        PRIMARY KEY (id))""",
    "CREATE TABLE kept_logins (owner TEXT NOT NULL, sealed TEXT NOT NULL, PRIMARY KEY (owner))",
)


def _step_10(connection: sa.Connection) -> None:
    for statement in _STEP_10:
        connection.exec_driver_sql(statement)


MIGRATIONS: tuple[Migration, ...] = (
    _step_1,
    _step_2,
    _step_3,
    _step_4,
    _step_5,
    _step_6,
    _step_7,
    _step_8,
    _step_9,
    _step_10,
)
"""Step n (counted from 1) leads a database of version n-1 to version n."""


def migrate(connection: sa.Connection, steps: Sequence[Migration] = MIGRATIONS) -> int:
    """Brings the database to the last version, inside the caller's transaction.

    Returns:
        The version that it had before; 0 for an empty database.

    Raises:
        ConfigError: The database is of a later version than this program.
    """
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema (version INTEGER NOT NULL, PRIMARY KEY (version))")
    before = connection.execute(sa.select(schema.c.version)).scalar() or 0
    if before > len(steps):
        raise ConfigError(
            f"the store has schema version {before}, this program knows up to {len(steps)}; "
            "upgrade hpcserve, or give it another state_dir"
        )
    for step in steps[before:]:
        step(connection)
    if before < len(steps):
        connection.execute(sa.delete(schema))
        connection.execute(sa.insert(schema).values(version=len(steps)))
    return before
