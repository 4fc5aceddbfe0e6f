"""Directories of the user's own that may not be there yet."""

from __future__ import annotations

from pathlib import Path


def make(path: Path) -> None:
    """Makes a directory, and those above it that are missing, all with mode 0700.

    With ``parents=True`` of :meth:`~pathlib.Path.mkdir` those above would be open to others, and no daemon would start
    in them.

    Raises:
        OSError: It cannot be made.
    """
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
