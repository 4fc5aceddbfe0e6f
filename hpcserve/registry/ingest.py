"""Takes a servable in: reads its manifest, keeps its files, asks its code for its methods.

Blocking; the daemon calls it on a thread. Who may publish, and what becomes of the version, is decided
by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from hpcserve.errors import HpcserveError
from hpcserve.registry.discovery import resolve_methods
from hpcserve.registry.manifest_file import read_manifest
from hpcserve.registry.vault import discard, keep
from hpcserve.servable.manifest import Manifest
from hpcserve.types import Digest


@dataclass(frozen=True)
class Ingested:
    """A servable that is kept. ``new`` is False where the same content was there before."""

    manifest: Manifest
    version: Digest
    path: Path
    new: bool


def ingest(
    directory: Path, shared_dir: Path, *, timeout_s: float, stop: Event | None = None, prologue: Sequence[str] = ()
) -> Ingested:
    """Takes the servable in ``directory`` into the store below ``shared_dir``.

    The kept copy is inspected, not the original: what is served is what was checked.

    Args:
        directory: The servable's directory, with its ``servable.toml``.
        shared_dir: The site's shared directory.
        timeout_s: How long importing the servable may take.
        stop: When it is set, importing is given up.
        prologue: The site's, for the servable's own interpreter.

    Raises:
        Cancelled: ``stop`` was set.
        ManifestError: The manifest, a file or the code is wrong.
        StorageFull: There is no room for the files.
        ConfigError: The shared directory cannot be written.
    """
    read_manifest(directory)
    version, path, new = keep(directory, shared_dir)
    try:
        manifest = resolve_methods(read_manifest(path), path, timeout_s=timeout_s, stop=stop, prologue=prologue)
    except HpcserveError:
        if new:
            discard(shared_dir, version)
        raise
    return Ingested(manifest, version, path, new)
