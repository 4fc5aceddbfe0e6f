from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hpcserve.errors import ConfigError
from hpcserve.registry import schema
from hpcserve.registry.engine import open_engine, transaction
from hpcserve.registry.schema import MIGRATIONS, TABLES, migrate
from hpcserve.registry.store import Store


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_engine(tmp_path / "store.db")
    yield engine
    engine.dispose()


def shape(connection: sa.Connection) -> dict[str, Any]:
    """Columns, keys and nullability of every table."""
    inspector = sa.inspect(connection)
    return {
        table: (
            [(one["name"], str(one["type"]), one["nullable"]) for one in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
        )
        for table in inspector.get_table_names()
    }


def version(connection: sa.Connection) -> list[int]:
    return list(connection.execute(sa.select(schema.schema.c.version)).scalars())


def test_the_steps_lead_to_the_tables(opened: sa.Engine, tmp_path: Path) -> None:
    with transaction(opened) as connection:
        assert migrate(connection) == 0
        assert version(connection) == [len(MIGRATIONS)]
        by_steps = shape(connection)
    other = open_engine(tmp_path / "other.db")
    with transaction(other) as connection:
        TABLES.create_all(connection)
        direct = shape(connection)
    other.dispose()
    assert by_steps == direct


def test_an_older_database_keeps_its_rows(opened: sa.Engine) -> None:
    def add_column(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE deployments ADD COLUMN note TEXT NOT NULL DEFAULT 'none'")

    def rename(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE deployments RENAME COLUMN note TO remark")

    with transaction(opened) as connection:
        migrate(connection, MIGRATIONS[:1])
        connection.exec_driver_sql("INSERT INTO deployments VALUES ('d', 's', 'v', 1, 'e', 2.5)")
    steps = (*MIGRATIONS, add_column, rename)
    with transaction(opened) as connection:
        assert migrate(connection, steps) == 1
        assert version(connection) == [len(steps)]
        rows = connection.exec_driver_sql("SELECT * FROM deployments").mappings().all()
    assert dict(rows[0]) == {
        "name": "d",
        "servable": "s",
        "version": "v",
        "replicas": 1,
        "endpoint": "e",
        "created_s": 2.5,
        "objective_ms": None,
        "max_batch_size": None,
        "max_queue_bytes": None,
        "max_queue_s": None,
        "kill_cancelled_s": None,
        "max_replicas": None,
        "hot_replicas": None,
        "idle_s": None,
        "owner": "",
        "remark": "none",
    }
    with transaction(opened) as connection:
        assert migrate(connection, steps) == len(steps)


def test_what_was_published_before_there_were_owners_is_nobodys_and_public(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "store.db")
    with transaction(engine) as connection:
        migrate(connection, MIGRATIONS[:7])
        for version in ("a" * 64, "b" * 64):
            connection.exec_driver_sql(f"INSERT INTO servables VALUES ('digits', '{version}', '{{}}', '/x', 1.0)")
    engine.dispose()
    store = Store(tmp_path / "store.db")
    assert [(row.name, row.owner, row.rules) for row in store.names()] == [("digits", "", ("*",))]
    assert store.resolve("digits@aaaa") == ("digits", "a" * 64)
    store.close()


def test_a_step_that_fails_leaves_the_older_version(opened: sa.Engine) -> None:
    def half(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE new (a TEXT)")
        raise RuntimeError("power cut")

    with transaction(opened) as connection:
        migrate(connection)
        before = shape(connection)
    with pytest.raises(RuntimeError), transaction(opened) as connection:
        migrate(connection, (*MIGRATIONS, half))
    with transaction(opened) as connection:
        assert shape(connection) == before
        assert version(connection) == [len(MIGRATIONS)]


def test_a_later_database_is_not_touched(tmp_path: Path) -> None:
    place = tmp_path / "store.db"
    Store(place).close()
    engine = open_engine(place)
    with transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE schema SET version = 99")
    engine.dispose()
    with pytest.raises(ConfigError, match="schema version 99, this program knows up to .*; upgrade hpcserve"):
        Store(place)
