"""The service record's file."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from hpcserve.daemon.record import record_path, remove_record, write_record
from hpcserve.types import Epoch
from hpcserve.wire.record import ServiceRecord, decode_record

RECORD = ServiceRecord(
    format=1,
    service="local",
    site="local",
    host="here",
    pid=7,
    epoch=Epoch(1),
    public_key="k" * 40,
    admission=("tcp://127.0.0.1:1",),
    front=("tcp://127.0.0.1:2",),
    back=("tcp://127.0.0.1:3",),
    software="hpcserve 1",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    assert path == record_path(tmp_path)
    assert decode_record(path.read_bytes(), "FILE") == RECORD


def test_only_ones_own_record_is_removed(tmp_path: Path) -> None:
    successor = msgspec.structs.replace(RECORD, pid=8)
    path = write_record(tmp_path, successor)
    remove_record(tmp_path, RECORD)
    assert path.exists()
    remove_record(tmp_path, msgspec.structs.replace(successor, epoch=Epoch(9)))
    assert not path.exists()
    remove_record(tmp_path, successor)


def test_what_is_no_record_is_left_alone(tmp_path: Path) -> None:
    record_path(tmp_path).write_text("not ours")
    remove_record(tmp_path, RECORD)
    assert record_path(tmp_path).read_text() == "not ours"


@pytest.mark.parametrize("gone", ["file", "host", "none"])
def test_the_address_is_the_file_only_where_it_can_be_opened(tmp_path: Path, gone: str) -> None:
    path = tmp_path / "front"
    if gone != "file":
        path.touch()
    host = "another" if gone == "host" else os.uname().nodename
    record = msgspec.structs.replace(RECORD, host=host, front_file=str(path))
    assert record.front_address() == (f"ipc://{path}" if gone == "none" else "tcp://127.0.0.1:2")
    assert record.back_address() == "tcp://127.0.0.1:3"
