"""Directories that are made before a daemon is: it must start in them."""

from __future__ import annotations

import os
from pathlib import Path

from hpcserve.auth.private import check_directory
from hpcserve.cluster import directories


def test_what_is_missing_above_is_not_open_to_others_either(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = os.umask(0o022)
    try:
        for _ in range(2):
            directories.make(home / "sites" / "local" / "shared")
    finally:
        os.umask(before)
    for each in (home, home / "sites", home / "sites" / "local" / "shared"):
        assert check_directory(each), "which refuses what others may enter"
