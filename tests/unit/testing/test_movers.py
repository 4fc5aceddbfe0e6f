"""Moving one file by a plain copy, and digests that holes cost nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcserve.testing.globus.contents import CHUNK_BYTES, checksum, contents_digest
from hpcserve.testing.globus.movers import CopyMover, Place


def copy(source: Path, destination: Path) -> list[int]:
    moved: list[int] = []
    CopyMover().move(Place(source.parent, source), Place(destination.parent, destination), moved.append)
    return moved


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 17])
def test_a_copy_is_the_same_and_says_how_far_it_is(tmp_path: Path, size: int) -> None:
    source, destination = tmp_path / "a", tmp_path / "b"
    source.write_bytes(os.urandom(size))
    destination.write_bytes(b"what was there before" * 10)
    moved = copy(source, destination)
    assert destination.read_bytes() == source.read_bytes()
    assert sum(moved) == size
    assert max(moved) <= CHUNK_BYTES


def test_twenty_gigabytes_of_holes_take_no_time_no_room_and_no_memory(tmp_path: Path) -> None:
    source, destination = tmp_path / "a", tmp_path / "b"
    size = 20 * 10**9
    with open(source, "wb") as file:
        file.write(b"first")
        file.seek(size // 2)
        file.write(b"middle")
        file.truncate(size)
    tracemalloc.start()
    try:
        moved = copy(source, destination)
        same = contents_digest(source) == contents_digest(destination)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(moved) == destination.stat().st_size == size
    assert destination.stat().st_blocks * 512 < 10**6
    assert same
    assert most < 20 * CHUNK_BYTES
    with open(destination, "rb") as file:
        assert file.read(5) == b"first"
        file.seek(size // 2)
        assert file.read(6) == b"middle"


def test_an_end_in_the_middle_leaves_what_came_so_far(tmp_path: Path) -> None:
    source, destination = tmp_path / "a", tmp_path / "b"
    source.write_bytes(os.urandom(4 * CHUNK_BYTES))
    left = [2]

    def progress(size: int) -> None:
        if size and not left[0]:
            raise InterruptedError("enough")
        left[0] -= bool(size)

    with pytest.raises(InterruptedError):
        CopyMover().move(Place(tmp_path, source), Place(tmp_path, destination), progress)
    assert 0 < destination.stat().st_size < source.stat().st_size


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"1" * CHUNK_BYTES)
    with pytest.raises(OSError, match="No space left") as caught:
        copy(source, Path("/dev/full"))
    assert caught.value.errno == errno.ENOSPC


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pieces=st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=5)), max_size=5), tail=st.integers(0, 3))
def test_the_digest_is_of_the_contents_however_they_are_stored(
    tmp_path: Path, pieces: list[tuple[int, bytes]], tail: int
) -> None:
    sparse, dense, other = tmp_path / "sparse", tmp_path / "dense", tmp_path / "other"
    with open(sparse, "wb") as file:
        for skipped, written in pieces:
            file.seek(skipped * (CHUNK_BYTES // 4), os.SEEK_CUR)
            file.write(written)
        file.truncate(file.tell() + tail)
    contents = sparse.read_bytes()
    dense.write_bytes(contents)
    assert contents_digest(sparse) == contents_digest(dense)
    for changed in (contents + b"\0", bytes([contents[0] ^ 1]) + contents[1:] if contents else b"x"):
        other.write_bytes(changed)
        assert contents_digest(other) != contents_digest(dense)


@pytest.mark.parametrize(("name", "known"), [("MD5", "md5"), ("SHA256", "sha256"), ("sha-512", "sha512")])
def test_checksums_are_those_of_the_world(tmp_path: Path, name: str, known: str) -> None:
    (tmp_path / "a").write_bytes(b"contents")
    assert checksum(tmp_path / "a", name) == hashlib.new(known, b"contents").hexdigest()
    with pytest.raises(ValueError, match="crc7"):
        checksum(tmp_path / "a", "crc7")
