"""Takes a servable in: reads its manifest, keeps its files, asks its code for its methods.

Blocking; the daemon calls it on a thread. Who may publish, and what becomes of the version, is decided
by the caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import msgspec

from hpcserve.errors import HpcserveError
from hpcserve.registry.discovery import Containers, resolve_methods
from hpcserve.registry.manifest_file import read_manifest
from hpcserve.registry.vault import discard, keep
from hpcserve.servable.manifest import Manifest
from hpcserve.types import Digest


@dataclass(frozen=True)
class Ingested:
    """A servable that is kept. ``new`` is False where the same content was there before.

    ``version`` stands for its files, and for its image if it has one.
    """

    manifest: Manifest
    version: Digest
    path: Path
    new: bool


def ingest(
    directory: Path,
    shared_dir: Path,
    *,
    timeout_s: float,
    anchor: Path | None = None,
    stop: Event | None = None,
    prologue: Sequence[str] = (),
    containers: Containers | None = None,
    check: Callable[[Manifest], None] = lambda _manifest: None,
) -> Ingested:
    """Takes the servable in ``directory`` into the store below ``shared_dir``.

    The kept copy is inspected, not the original: what is served is what was checked.

    Args:
        directory: The servable's directory, with its ``servable.toml``.
        shared_dir: The site's shared directory.
        timeout_s: How long importing the servable may take.
        anchor: Below it, nothing is read through a symbolic link, nor anything at all but what is copied.
        stop: When it is set, importing is given up.
        prologue: The site's, for the servable's own interpreter.
        containers: How the site runs servables that have an image; without it they are refused.
        check: Raises if whoever publishes it may not have what the manifest names; before any of its code is run.

    Raises:
        Cancelled: ``stop`` was set.
        ManifestError: The manifest, a file or the code is wrong.
        StorageFull: There is no room for the files.
        ConfigError: The shared directory cannot be written.
    """
    if anchor is None:
        read_manifest(directory)
    digest, path, new = keep(directory, shared_dir, anchor)
    try:
        manifest = read_manifest(path)
        check(manifest)
        if manifest.environment.kind == "container" and containers is not None:
            environment = containers.published(manifest)
            manifest = msgspec.structs.replace(manifest, environment=environment)
        manifest = resolve_methods(
            manifest, path, timeout_s=timeout_s, stop=stop, prologue=prologue, containers=containers
        )
    except HpcserveError:
        if new:
            discard(shared_dir, digest)
        raise
    return Ingested(manifest, _version(digest, manifest), path, new)


def _version(digest: Digest, manifest: Manifest) -> Digest:
    """Another image is another version, though the servable's files are the same."""
    image = manifest.environment.published
    return digest if image is None else Digest(hashlib.sha256(f"{digest} {image.sha256}".encode()).hexdigest())
