"""The service record's file: written when the daemon is ready, removed when it goes down."""

from __future__ import annotations

from pathlib import Path

from hpcserve.auth.private import replace
from hpcserve.errors import ConfigError, ServiceUnavailable
from hpcserve.wire.record import RECORD_NAME, ServiceRecord, decode_record, encode_record


def record_path(shared_dir: Path) -> Path:
    """Where a service's record is."""
    return shared_dir / RECORD_NAME


def write_record(shared_dir: Path, record: ServiceRecord) -> Path:
    """Writes the record, whole; returns its path.

    Raises:
        StorageFull: The disk is full; a record written before is still there.
    """
    path = record_path(shared_dir)
    replace(path, encode_record(record))
    return path


def has_record(shared_dir: Path, record: ServiceRecord) -> bool:
    """Whether the file holds this record, or cannot be read now."""
    try:
        return record_path(shared_dir).read_bytes() == encode_record(record)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def remove_record(shared_dir: Path, record: ServiceRecord) -> None:
    """Removes the record unless another daemon has replaced it."""
    path = record_path(shared_dir)
    try:
        there = decode_record(path.read_bytes(), str(path))
    except (FileNotFoundError, ConfigError, ServiceUnavailable):
        return
    if (there.host, there.pid) == (record.host, record.pid):
        path.unlink(missing_ok=True)
