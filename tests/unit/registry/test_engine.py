from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa

from hpcserve.errors import ConfigError, HpcserveError
from hpcserve.registry import engine
from hpcserve.registry.engine import file_system, is_local, open_engine, transaction

MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
home:/export /home nfs4 rw,vers=4.2 0 0
10.0.0.1@tcp:/scratch /lus/scratch lustre rw 0 0
tmpfs /home/me/ram tmpfs rw 0 0
old:/x /stacked nfs rw 0 0
/dev/sdb1 /stacked xfs rw 0 0
gpfs0 /with\\040space\\134 gpfs rw 0 0
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib", "ext4"),
        ("/home", "nfs4"),
        ("/home/me/state", "nfs4"),
        ("/homework", "ext4"),
        ("/home/me/ram/state", "tmpfs"),
        ("/lus/scratch/a", "lustre"),
        ("/lus", "ext4"),
        ("/stacked/a", "xfs"),
        ("/with space\\/a", "gpfs"),
    ],
)
def test_the_innermost_mount_counts(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_no_mount_at_all() -> None:
    assert file_system(Path("/a"), "") == ""


def test_a_network_file_system_and_an_unknown_one_are_not_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mounts"
    monkeypatch.setattr(engine, "MOUNTS", table)
    for kind, local in (("ext4", True), ("xfs", True), ("nfs", False), ("fuse.sshfs", False), ("newfs", False)):
        table.write_text(f"device {tmp_path} {kind} rw 0 0\n")
        assert is_local(tmp_path / "state") is local
    table.unlink()
    assert not is_local(tmp_path)


def pragmas(place: Path) -> dict[str, str]:
    opened = open_engine(place)
    with transaction(opened) as connection:
        names = ("journal_mode", "locking_mode", "synchronous")
        found = {name: str(connection.exec_driver_sql(f"PRAGMA {name}").scalar()) for name in names}
    opened.dispose()
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ext4", {"journal_mode": "wal", "locking_mode": "normal", "synchronous": "2"}),
        ("lustre", {"journal_mode": "delete", "locking_mode": "exclusive", "synchronous": "2"}),
    ],
)
def test_the_journal_fits_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: dict[str, str]
) -> None:
    (tmp_path / "mounts").write_text(f"device {tmp_path} {kind} rw 0 0\n")
    monkeypatch.setattr(engine, "MOUNTS", tmp_path / "mounts")
    assert pragmas(tmp_path / "store.db") == expected


def test_a_store_moves_between_both_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOUNTS", tmp_path / "mounts")
    for kind, journal in (("ext4", "wal"), ("nfs", "delete"), ("ext4", "wal")):
        (tmp_path / "mounts").write_text(f"device {tmp_path} {kind} rw 0 0\n")
        assert pragmas(tmp_path / "store.db")["journal_mode"] == journal


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    opened = open_engine(tmp_path / "store.db")
    with transaction(opened) as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in os.listdir(tmp_path)}
    assert modes
    assert set(modes.values()) == {0o600}
    opened.dispose()


def test_a_url_is_as_good_as_a_path(tmp_path: Path) -> None:
    opened = open_engine(f"sqlite:///{tmp_path}/store.db")
    with transaction(opened) as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
    opened.dispose()
    with sqlite3.connect(tmp_path / "store.db") as plain:
        assert plain.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
    plain.close()


def test_a_path_with_a_question_mark(tmp_path: Path) -> None:
    (tmp_path / "a?b%20").mkdir()
    open_engine(tmp_path / "a?b%20" / "store.db").dispose()
    assert (tmp_path / "a?b%20" / "store.db").exists()


@pytest.mark.parametrize(
    "place",
    ["", "nonsense", "nosuchdb://host/x", "sqlite://", "sqlite:///relative.db", "sqlite:////no/such/directory/a.db"],
)
def test_what_cannot_be_opened(place: str) -> None:
    with pytest.raises(ConfigError, match="cannot open the store"):
        open_engine(place)


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot open the store .*: Is a directory"):
        open_engine(tmp_path)


def test_a_failed_transaction_changes_nothing(tmp_path: Path) -> None:
    opened = open_engine(tmp_path / "store.db")

    def change() -> None:
        with transaction(opened) as connection:
            connection.exec_driver_sql("CREATE TABLE t (a)")
            connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(HpcserveError, match="the store .* fails: no such table"):
        change()
    with transaction(opened) as connection:
        assert sa.inspect(connection).get_table_names() == []
    opened.dispose()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("not a database at all, but long enough to be looked at" * 20)
    opened = open_engine(tmp_path / "store.db")
    with pytest.raises(HpcserveError, match="the store .*store.db fails: file is not a database"), transaction(opened):
        pass
    opened.dispose()
