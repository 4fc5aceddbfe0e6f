"""Who builds what: what the dead leave is removed, what others make is waited for."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcserve.cluster.build_places import alone, not_written, part_of, scratch
from hpcserve.cluster.building import _digest
from hpcserve.errors import ConfigError, HpcserveError, StorageFull

MAKES = """
import sys
from pathlib import Path
from hpcserve.cluster.build_places import alone, part_of, scratch
place = Path(sys.argv[1])
with alone(place, place / "x.sif", print), scratch(place), part_of(place / "x.sif") as part:
    part.touch()
    print("made", flush=True)
    sys.stdin.read()
"""


def builder(place: Path) -> subprocess.Popen[bytes]:
    """A process that builds there until its input ends."""
    argv = [sys.executable, "-c", MAKES, str(place)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"made\n"
    return process


def left(place: Path) -> list[str]:
    return sorted(each.name for each in place.iterdir() if each.name != "locks")


def test_what_the_dead_have_left_is_removed_and_what_others_make_is_not(tmp_path: Path) -> None:
    (tmp_path / ".x.elsewhere-1-2.sif").touch()  # of another host
    with builder(tmp_path) as living:
        both = left(tmp_path)
        assert len(both) == 3
        with scratch(tmp_path) as place, part_of(tmp_path / "x.sif") as part:
            part.touch()
            assert sorted([*both, place.name, part.name]) == left(tmp_path)
        assert left(tmp_path) == both
        living.send_signal(signal.SIGKILL)
        living.wait()
        assert left(tmp_path) == both
    with scratch(tmp_path) as place, part_of(tmp_path / "x.sif"):
        assert left(tmp_path) == [".x.elsewhere-1-2.sif", place.name]


def test_a_lock_is_waited_for_and_ends_with_who_has_it(tmp_path: Path) -> None:
    told: list[str] = []
    with builder(tmp_path) as living:
        with alone(tmp_path, tmp_path / "other.sif", told.append):
            assert told == []

        def tell(said: str) -> None:
            told.append(said)
            living.kill()

        with alone(tmp_path, tmp_path / "x.sif", tell):
            assert told == [f"waiting for another process that makes {tmp_path}/x.sif"]
            living.wait(60.0)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EACCES, ConfigError)]
)
def test_a_full_disk_has_an_error_of_its_own(number: int, kind: type[HpcserveError]) -> None:
    error = not_written("/x.sif", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(error).startswith("cannot write /x.sif: ")


def _chmod(place: Path) -> None:
    (place / "run.sh").chmod(0o755)


def _relink(place: Path) -> None:
    (place / "link").unlink()
    (place / "link").symlink_to("/nowhere/else")


def _rename(place: Path) -> None:
    (place / "run.sh").rename(place / "run2.sh")


def _rewrite(place: Path) -> None:
    (place / "run.sh").write_text("#!/bin/sh\n#")


def _close(place: Path) -> None:
    (place / "empty").chmod(0o700)


@pytest.mark.parametrize("change", [_chmod, _relink, _rename, _rewrite, _close])
def test_all_that_a_directory_brings_into_an_image_is_in_its_digest(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    place = tmp_path / "files"
    (place / "empty").mkdir(parents=True, mode=0o755)
    (place / "run.sh").write_text("#!/bin/sh\n")
    (place / "run.sh").chmod(0o644)
    (place / "link").symlink_to("/nowhere")
    before = _digest(place)
    copy = tmp_path / "copy"
    shutil.copytree(place, copy, symlinks=True)
    assert _digest(copy) == before
    os.utime(place / "run.sh", (0, 0))
    assert _digest(place) == before
    change(place)
    assert _digest(place) != before
