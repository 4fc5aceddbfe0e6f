"""Files that are ours alone: modes, owners, wholeness."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve.auth.private import create, private_directory, read_private, replace, storage_error
from hpcserve.errors import ConfigError, StorageFull


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    """No file may grow past its first byte; pytest's own output neither, so it lasts for the calls alone."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_directory_is_made_with_its_parents_for_us_alone(tmp_path: Path) -> None:
    made = private_directory(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    assert made.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 700 '{place}'"):
        private_directory(place)


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o600)
    with pytest.raises(ConfigError, match="not a directory"):
        private_directory(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    file, place = tmp_path / "file", tmp_path / "place"
    file.touch(mode=0o600)
    place.mkdir(mode=0o700)
    os.chown(file, 12345, 12345)
    os.chown(place, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user id 12345"):
        read_private(file, secret=True)
    with pytest.raises(ConfigError, match="belongs to user id 12345"):
        private_directory(place)


@pytest.mark.parametrize(("mode", "verb"), [(0o640, "read"), (0o604, "read"), (0o620, "write"), (0o602, "write")])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int, verb: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"others may {verb} it; run: chmod 600 '{file}'"):
        read_private(file, secret=verb == "read")


def test_what_is_not_secret_may_be_read_by_others(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    file.chmod(0o644)
    assert read_private(file, secret=False) == b"x"


def test_only_the_first_to_create_a_file_writes_it(tmp_path: Path) -> None:
    assert create(tmp_path / "file", b"first")
    assert not create(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    replace(tmp_path / "file", b"old")
    replace(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with _full_disk(), pytest.raises(StorageFull, match="make room"):
        create(tmp_path / "file", b"much too long")
    assert os.listdir(tmp_path) == []
    replace(tmp_path / "file", b"1")
    with _full_disk(), pytest.raises(StorageFull, match="cannot write"):
        replace(tmp_path / "file", b"much too long")
    assert (tmp_path / "file").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_file_is_not_a_wrong_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "file", secret=True)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_says_how_to_name_another(number: int) -> None:
    told = storage_error(OSError(number, os.strerror(number)), "cannot make directory /home/x")
    assert type(told) is ConfigError
    assert str(told) == (
        f"cannot make directory /home/x: {os.strerror(number)}; set HPCSERVE_HOME, or state_dir and shared_dir in a "
        "site file, to a directory that can be written"
    )


def test_a_file_may_depend_on_what_is_known_when_its_content_is_on_disk(tmp_path: Path) -> None:
    def drafted() -> bool:
        (draft,) = tmp_path.iterdir()
        return draft.read_bytes() != b"content"

    assert not create(tmp_path / "file", b"content", only_if=drafted)
    assert os.listdir(tmp_path) == []
