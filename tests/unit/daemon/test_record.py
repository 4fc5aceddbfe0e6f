"""The service record's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hpcserve.daemon.record import has_record, record_path, remove_record, write_record
from hpcserve.errors import ConfigError, ServiceUnavailable
from hpcserve.types import Epoch
from hpcserve.wire.record import ServiceRecord, decode_record, encode_record

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


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: bytes(9)])
def test_half_a_record_is_no_wrong_record_and_may_be_whole_soon(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ServiceUnavailable, match=r"FILE: not a whole service record \(.*hpcserve up"):
        decode_record(damage(encode_record(RECORD)), "FILE")


@pytest.mark.parametrize("socket", ["admission", "front", "back"])
def test_a_record_without_an_address_is_none_yet(socket: str) -> None:
    record = msgspec.structs.replace(RECORD, **{socket: ()})
    with pytest.raises(ServiceUnavailable, match=rf"FILE: not a whole .*'{socket}' lists no address.*hpcserve up"):
        decode_record(encode_record(record), "FILE")


@pytest.mark.parametrize("other", [b'{"a": 1}', b"[]", encode_record(RECORD).replace(b'"format": 1', b'"format": 2')])
def test_something_else_is_no_record(other: bytes) -> None:
    with pytest.raises(ConfigError, match="FILE: "):
        decode_record(other, "FILE")


def test_it_is_known_whether_the_file_still_holds_it(tmp_path: Path) -> None:
    assert not has_record(tmp_path, RECORD)
    path = write_record(tmp_path, RECORD)
    assert has_record(tmp_path, RECORD)
    path.write_bytes(path.read_bytes()[:40])
    assert not has_record(tmp_path, RECORD)


@pytest.mark.parametrize(
    ("file", "here", "opens", "expected"),
    [
        ("/run/front", "here", True, "ipc:///run/front"),
        ("/run/front", "here", False, "tcp://127.0.0.1:2"),
        ("/run/front", "another", True, "tcp://127.0.0.1:2"),
        ("", "here", True, "tcp://127.0.0.1:2"),
    ],
)
def test_the_address_is_the_file_only_where_it_can_be_opened(file: str, here: str, opens: bool, expected: str) -> None:  # noqa: FBT001
    record = msgspec.structs.replace(RECORD, front_file=file, back_file=file)
    asked: list[str] = []

    def may_open(path: str) -> bool:
        asked.append(path)
        return opens

    assert record.front_address(here, may_open) == expected
    assert record.back_address(here, may_open) == expected.replace("127.0.0.1:2", "127.0.0.1:3")
    assert set(asked) <= {file}
