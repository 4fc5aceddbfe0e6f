"""Opens the store's database: SQLite as its file system can bear it, or any other URL as it is.

On a local disk SQLite keeps a write-ahead log. That needs memory shared by all its users, which network
file systems do not give: there it keeps a rollback journal and locks the file for itself. Both wait until
a commit is on the disk.

Source: "Write-Ahead Logging", section "Overview", and "PRAGMA locking_mode", sqlite.org.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from hpcserve.errors import ConfigError, Conflict, HpcserveError, StorageFull

MOUNTS = Path("/proc/self/mounts")

LOCAL_FILE_SYSTEMS = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
)
"""All others, the unknown ones included, are treated as network file systems."""

BUSY_TIMEOUT_S = 5.0

# SQLite tells a quota (EDQUOT) as a failed write, and a full disk in WAL mode as failed shared memory.
_FULL = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE}
)
_POSTGRES_DISK_FULL = "53100"


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds ``path``.

    Args:
        path: An absolute path without links.
        mounts: The text of ``/proc/self/mounts``.

    Returns:
        Such as ``ext4`` or ``lustre``; empty if no mount point is a parent of ``path``.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def is_local(path: Path) -> bool:
    """Whether ``path`` lies on a file system of this host alone, as far as one can tell."""
    try:
        mounts = MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return False  # not Linux: the safe mode works everywhere
    return file_system(path.resolve(), mounts) in LOCAL_FILE_SYSTEMS


def open_engine(place: str | Path) -> sa.Engine:
    """The database at a URL, or SQLite's at a path: then one connection, of this thread.

    Raises:
        ConfigError: The URL is wrong, its driver is not installed, or SQLite's file cannot be opened.
        StorageFull: The disk is too full for an empty file.
    """
    try:
        parsed = sa.URL.create("sqlite", database=str(place)) if isinstance(place, Path) else sa.make_url(place)
        if parsed.get_backend_name() != "sqlite":
            return sa.create_engine(parsed, pool_pre_ping=True, pool_size=1, max_overflow=0)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(f"cannot open the store {str(place).partition('://')[0]}://…: {error}") from error
    path = Path(parsed.database or "")
    if not path.is_absolute() or not path.parent.is_dir():
        raise ConfigError(f"cannot open the store {place}: give the absolute path of a file in an existing directory")
    _touch(path)
    return _sqlite(parsed, local=is_local(path.parent))


def _touch(path: Path) -> None:
    """Makes the file for the owner alone; SQLite gives its companions (-wal, -journal) the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in StorageFull.errnos:
            raise StorageFull(f"no room for the store {path}: {error.strerror}; free some space") from error
        raise ConfigError(f"cannot open the store {path}: {error.strerror}") from error


def _sqlite(url: sa.URL, *, local: bool) -> sa.Engine:
    engine = sa.create_engine(
        url, poolclass=StaticPool, connect_args={"check_same_thread": True, "timeout": BUSY_TIMEOUT_S}
    )
    journal = ("journal_mode=WAL",) if local else ("locking_mode=EXCLUSIVE", "journal_mode=DELETE")

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver would not put CREATE TABLE into a transaction
        for pragma in (*journal, "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """All or nothing; the driver's errors as ours.

    Raises:
        StorageFull: The disk or the quota is full. Nothing was changed.
        Conflict: Another process holds the database.
        HpcserveError: The database fails otherwise.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        raise _explained(error.orig, engine.url) from error
    except sqlite3.Error as error:  # from the PRAGMAs of a new connection
        raise _explained(error, engine.url) from error


def _explained(error: BaseException | None, url: sa.URL) -> HpcserveError:
    where = url.render_as_string(hide_password=True)
    code = getattr(error, "sqlite_errorcode", None)
    if code in _FULL or getattr(error, "sqlstate", None) == _POSTGRES_DISK_FULL:
        return StorageFull(f"no room for the store {where}: {error}; free some space on its disk or quota")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Conflict(f"another process holds the store {where}; is a second daemon running on this state_dir?")
    return HpcserveError(f"the store {where} fails: {error}")
