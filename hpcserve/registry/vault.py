"""The content-addressed store of servable directories: ``SHARED_DIR/servables/DIGEST/``.

A directory appears under its digest whole or not at all: it is written beside and renamed. Its files are
read-only and for the owner alone. A copy that lost files (shared file systems are purged) is replaced.

Where one account serves many, images are kept too, as ``SHARED_DIR/images/SHA256.sif``: no container sees them there,
so nobody's code can put another in the place of one that was published.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcserve.errors import ConfigError, ManifestError, StorageFull
from hpcserve.registry.content import Entry, Hashing, blocks, digest_of, entries, read_blocks
from hpcserve.types import Digest

_PARTIAL = ".partial-"


def keep(source: Path, shared_dir: Path, anchor: Path | None = None) -> tuple[Digest, Path, bool]:
    """Copies the servable in ``source`` into the store, through no symbolic link below the ``anchor``.

    Returns:
        Its digest, its directory in the store, and whether it is new there.

    Raises:
        ManifestError: A file cannot be published, or changes meanwhile.
        StorageFull: The shared file system or the quota is full; nothing partial is left.
        ConfigError: The shared directory cannot be written.
    """
    listing = entries(source, anchor)
    digest = digest_of(source, listing, anchor)
    kept = place(shared_dir, digest)
    if kept.is_dir() and _intact(kept, digest):
        return digest, kept, False
    with _no_room(kept.parent, sum(entry.size_bytes for entry in listing)), _scratch(kept.parent) as scratch:
        partial = scratch / "content"
        if _copy(source, partial, listing, anchor) != digest:
            raise ManifestError(f"{source} changed while it was published; publish again when nothing writes to it")
        if kept.exists():
            kept.rename(scratch / "damaged")
        new = _appear(partial, kept, digest)
        _sync(kept.parent)
    return digest, kept, new


def keep_image(image: Path, shared_dir: Path, anchor: Path) -> Path:
    """Copies an image into the store, through no symbolic link below the ``anchor``; returns where it is.

    A copy that is there stays as it is, with its time of change.

    Raises:
        ManifestError: It cannot be read.
        StorageFull: The shared file system or the quota is full; nothing partial is left.
        ConfigError: The shared directory cannot be written.
    """
    directory, size_bytes, digest = image_store(shared_dir), 0, hashlib.sha256()
    with _no_room(directory, _size_bytes(image)), _scratch(directory) as scratch:
        partial = scratch / "image"
        with partial.open("xb") as file:
            for block in blocks(image, anchor):
                digest.update(block)
                size_bytes += file.write(block)
            file.flush()
            os.fchmod(file.fileno(), 0o400)
            os.fsync(file.fileno())
        kept = directory / f"{digest.hexdigest()}.sif"
        if not kept.is_file() or kept.stat().st_size != size_bytes:
            partial.rename(kept)
            _sync(directory)
    return kept


def _size_bytes(image: Path) -> int:
    try:
        return image.lstat().st_size
    except OSError as error:
        raise ManifestError(f"cannot read {image}: {error.strerror}") from error


def store(shared_dir: Path) -> Path:
    """Where all servables are."""
    return shared_dir / "servables"


def image_store(shared_dir: Path) -> Path:
    """Where all images are that are kept."""
    return shared_dir / "images"


def place(shared_dir: Path, digest: Digest) -> Path:
    """Where the content of ``digest`` is, if it is there."""
    return store(shared_dir) / digest


def discard(shared_dir: Path, digest: Digest) -> None:
    """Removes a servable's directory from the store, if it is there."""
    shutil.rmtree(place(shared_dir, digest), ignore_errors=True)


def sweep(shared_dir: Path) -> None:
    """Removes what copies left behind that were killed half-way. For when no copy is under way."""
    for directory in (store(shared_dir), image_store(shared_dir)):
        for partial in directory.glob(f"{_PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)


def _intact(kept: Path, digest: Digest) -> bool:
    try:
        return digest_of(kept, entries(kept)) == digest
    except ManifestError:
        return False


@contextmanager
def _no_room(directory: Path, needed_bytes: int) -> Iterator[None]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in StorageFull.errnos:
            raise StorageFull(
                f"no room for {needed_bytes} bytes in {directory}: {error.strerror}; "
                "free some space, or set shared_dir to another file system"
            ) from error
        raise ConfigError(f"cannot write to {directory}, which lies in shared_dir: {error}") from error


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """A directory beside the kept ones, removed afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=directory))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(source: Path, partial: Path, listing: list[Entry], anchor: Path | None) -> Digest:
    """Writes the ``listing`` below ``partial``; returns the digest of what was written."""
    digest = Hashing()
    partial.mkdir(mode=0o700)
    for entry in listing:
        target = partial / entry.relative
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest.begin(entry)
        if entry.target is not None:
            target.symlink_to(entry.target)
            continue
        with target.open("xb") as file:
            read_blocks(source, entry, digest.update, file.write, anchor=anchor)
            file.flush()
            os.fchmod(file.fileno(), 0o500 if entry.executable else 0o400)
            os.fsync(file.fileno())
    return digest.result()


def _appear(partial: Path, kept: Path, digest: Digest) -> bool:
    """Gives the copy its name. False where another copy of the same content came first."""
    try:
        partial.rename(kept)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and _intact(kept, digest):
            return False
        raise
    return True


def _sync(directory: Path) -> None:
    """Makes a rename in ``directory`` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
