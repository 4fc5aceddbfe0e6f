"""Paths that a manifest names: relative, existing, and inside the servable's directory."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from hpcserve.errors import ManifestError


def inside(directory: Path, relative: str, field: str) -> Path:
    """The file ``relative`` of ``directory``.

    Args:
        directory: The servable's directory.
        relative: The path as the manifest has it.
        field: The manifest's field, for the message.

    Raises:
        ManifestError: The path is absolute, leads out of the directory (by ``..`` or a link) or has no file.
    """
    pure = PurePosixPath(relative)
    if not relative or "\0" in relative or pure.is_absolute():
        raise ManifestError(f"{field}: {relative!r} is not a path relative to the servable's directory")
    if ".." in pure.parts:
        raise ManifestError(f"{field}: {relative!r} leaves the servable's directory; put the file inside")
    path = directory / pure
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ManifestError(f"{field}: no file {relative!r} in {directory}") from error
    if not real.is_relative_to(directory.resolve()):
        raise ManifestError(f"{field}: {relative!r} is a link to {real}, outside the directory; put the file inside")
    if not real.is_file():
        raise ManifestError(f"{field}: {relative!r} is not a file")
    return path
