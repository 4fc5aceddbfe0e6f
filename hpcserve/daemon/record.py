"""The service record's file: written when the daemon is ready, removed when it goes down."""

from __future__ import annotations

from pathlib import Path

from hpcserve.auth.private import private_directory, replace
from hpcserve.errors import ConfigError, ServiceUnavailable
from hpcserve.wire.record import ALONE, RECORD_NAME, ServiceRecord, decode_record, encode_record


def record_path(shared_dir: Path) -> Path:
    """Where a service's record is."""
    return shared_dir / RECORD_NAME


def write_record(shared_dir: Path, record: ServiceRecord) -> Path:
    """Writes the record, whole, in both of its places; returns its path.

    Raises:
        StorageFull: The disk is full; a record written before is still there.
    """
    path, alone = record_path(shared_dir), _alone(shared_dir)
    private_directory(alone.parent)
    for each in (alone, path):
        replace(each, encode_record(record))
    return path


def has_record(shared_dir: Path, record: ServiceRecord) -> bool:
    """Whether both files hold this record, or cannot be read now."""
    try:
        return all(each.read_bytes() == encode_record(record) for each in (record_path(shared_dir), _alone(shared_dir)))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def remove_record(shared_dir: Path, record: ServiceRecord) -> None:
    """Removes the record unless another daemon has replaced it."""
    for path in (record_path(shared_dir), _alone(shared_dir)):
        try:
            there = decode_record(path.read_bytes(), str(path))
        except (FileNotFoundError, ConfigError, ServiceUnavailable):
            continue
        if (there.host, there.pid) == (record.host, record.pid):
            path.unlink(missing_ok=True)


def _alone(shared_dir: Path) -> Path:
    return shared_dir / ALONE / RECORD_NAME
