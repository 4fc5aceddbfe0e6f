"""A real file system that is really full."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """The mount point of a file system of 1 MiB; skips where we may not mount one."""
    # Not below tmp_path: pytest would try to remove a mount point that an interrupted run has left.
    place = Path(tempfile.mkdtemp(prefix="hpcserve-small-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
    finally:
        place.rmdir()


@pytest.fixture
def fill_disk() -> Callable[[Path], Path]:
    """Takes all the room that a directory's file system has left; gives the file to remove."""

    def fill(directory: Path) -> Path:
        ballast = directory / "ballast"
        fd = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                _write_for_ever(fd)
        finally:
            os.close(fd)
        return ballast

    return fill


def _write_for_ever(fd: int) -> None:
    while True:
        os.write(fd, bytes(512))
