from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve.replica.usage import DEEPEST, REMEMBERED_S, Usage, counted_bytes

MIB = 1 << 20
MANY = 1 << 40


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def written(path: Path, size_bytes: int = MIB) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size_bytes))


def test_what_lies_below_counts_and_what_a_link_leads_to_does_not(tmp_path: Path, directory: int) -> None:
    written(tmp_path / "x.h5")
    (tmp_path / "up").symlink_to("/usr")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "round").symlink_to(tmp_path)
    before = counted_bytes(directory, MANY)
    assert MIB <= before < 2 * MIB
    written(tmp_path / "sub" / "of" / "y.bin")
    assert 2 * MIB <= counted_bytes(directory, MANY) < 3 * MIB


def test_directories_in_which_one_gets_lost_have_no_room(tmp_path: Path, directory: int) -> None:
    (tmp_path / "/".join("d" * (DEEPEST - 1))).mkdir(parents=True)
    assert counted_bytes(directory, MANY) < MIB
    (tmp_path / "/".join("d" * DEEPEST)).mkdir(parents=True)
    assert counted_bytes(directory, MANY) > MANY


def test_what_was_counted_is_remembered_until_it_is_old_or_says_no(tmp_path: Path, directory: int) -> None:
    now = 0.0
    usage = Usage(lambda: now)

    def used(room_for: int = 1) -> int:
        return usage.used_bytes("ada", directory, room_for=room_for, quota_bytes=8 * MIB)

    assert used() == 0
    written(tmp_path / "others")
    assert used() == 0
    usage.add("ada", 3 * MIB)
    assert used() == 3 * MIB
    assert MIB <= used(room_for=6 * MIB) < 2 * MIB
    usage.add("ada", 3 * MIB)
    now += REMEMBERED_S + 1
    assert MIB <= used() < 2 * MIB
    usage.add("bob", MIB)
    assert usage.used_bytes("bob", directory, room_for=1, quota_bytes=MANY) < 2 * MIB
