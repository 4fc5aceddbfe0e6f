"""Carries one task out: what there is to move, moving it, looking whether it arrived as it was.

What was done stays done when the task tries again. Faults are raised, not handled: :mod:`transfer_queue` decides.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcserve.testing.globus.collections import Caller, Collection, NotAllowed
from hpcserve.testing.globus.contents import checksum, contents_digest
from hpcserve.testing.globus.movers import Mover, Place
from hpcserve.testing.globus.transfer_tasks import (
    ENDPOINT_ERROR,
    FILE_NOT_FOUND,
    IS_A_DIRECTORY,
    NOT_A_DIRECTORY,
    PERMISSION_DENIED,
    QUOTA_EXCEEDED,
    VERIFY_CHECKSUM,
    Task,
)

_CODES = {
    errno.ENOENT: FILE_NOT_FOUND,
    errno.ENOTDIR: NOT_A_DIRECTORY,
    errno.EEXIST: NOT_A_DIRECTORY,
    errno.EISDIR: IS_A_DIRECTORY,
    errno.EACCES: PERMISSION_DENIED,
    errno.EPERM: PERMISSION_DENIED,
    errno.EROFS: PERMISSION_DENIED,
    errno.ENOSPC: QUOTA_EXCEEDED,
    errno.EDQUOT: QUOTA_EXCEEDED,
    errno.EFBIG: QUOTA_EXCEEDED,
}


class Fault(Exception):
    """Something went wrong; it is tried again."""

    def __init__(self, code: str, details: str, *, fatal: bool = False) -> None:
        super().__init__(details)
        self.code, self.details, self.fatal = code, details, fatal


@dataclass(frozen=True)
class _File:
    """One file to move."""

    source: str
    destination: str
    algorithm: str | None = None
    external: str | None = None


class TransferRun:
    """Moves what a transfer task names.

    Args:
        task: What was submitted, and the counters.
        owner: For whom; their rights are asked for anew for each file.
        source: Where the files are.
        destination: Where they shall be.
        mover: What moves a file's bytes.
        moved: Called with the bytes moved, and with 0 now and then; what it raises ends the run.
    """

    def __init__(
        self,
        task: Task,
        owner: Caller,
        *,
        source: Collection,
        destination: Collection,
        mover: Mover,
        moved: Callable[[int], None],
    ) -> None:
        self._task = task
        self._owner = owner
        self._source = source
        self._destination = destination
        self._mover = mover
        self._moved = moved
        self._files: list[_File] | None = None

    def attempt(self) -> None:
        """Do what is left to do.

        Raises:
            Fault: It did not go well; what is left is for the next attempt.
        """
        if self._files is None:
            self._files = list(self._look())
            self._task.files = len(self._files)
        while self._files:
            self._moved(0)
            self._carry(self._files[0])
            del self._files[0]

    # --- what there is ----------------------------------------------------------------------------

    def _look(self) -> Iterator[_File]:
        self._task.directories = self._task.symlinks = 0
        for item in self._task.document["DATA"]:
            source, destination = item["source_path"], item["destination_path"]
            with _faults():
                place = self._source.allow(self._owner, source, "r")
                if place.path.is_dir():
                    if not item.get("recursive"):
                        raise Fault(ENDPOINT_ERROR, f"{source}: Is a directory, and the item is not recursive")
                    yield from self._look_below(place.path, source.rstrip("/"), destination.rstrip("/"))
                    continue
            yield _File(source, destination, item.get("checksum_algorithm"), item.get("external_checksum"))

    def _look_below(self, directory: Path, source: str, destination: str) -> Iterator[_File]:
        self._task.directories += 1
        made = self._destination.allow(self._owner, destination, "rw")
        made.path.mkdir(parents=True, exist_ok=True)
        for entry in sorted(directory.iterdir()):
            below = f"{source}/{entry.name}", f"{destination}/{entry.name}"
            if entry.is_symlink():
                self._task.symlinks += 1  # ``recursive_symlinks`` is "ignore".
            elif entry.is_dir():
                yield from self._look_below(entry, *below)
            elif entry.is_file():
                yield _File(*below)

    # --- one file ---------------------------------------------------------------------------------

    def _carry(self, file: _File) -> None:
        document = self._task.document
        try:
            with _faults():
                source = self._source.allow(self._owner, file.source, "r")
                source.path.stat()
        except Fault as fault:
            if not document.get("skip_source_errors") or fault.code not in (FILE_NOT_FOUND, PERMISSION_DENIED):
                raise
            self._task.files_skipped += 1
            self._task.errors_skipped += 1
            return
        with _faults(fatal_quota=bool(document.get("fail_on_quota_errors"))):
            destination = self._destination.allow(self._owner, file.destination, "rw")
            if _same(document.get("sync_level"), source.path, destination.path, file.algorithm):
                self._task.files_skipped += 1
                return
            destination.path.parent.mkdir(parents=True, exist_ok=True)
            self._mover.move(source, destination, self._within_quota(destination.path))
            self._destination.spoil(destination.path)
            self._verify(file, source, destination)
            if document.get("preserve_timestamp"):
                shutil.copystat(source.path, destination.path)
        self._task.files_moved += 1
        self._task.moved.append((file.source, file.destination))

    def _within_quota(self, path: Path) -> Callable[[int], None]:
        room = self._destination.room_bytes(path)
        written = 0

        def moved(size: int) -> None:
            nonlocal written
            written += size
            if room is not None and written > room:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            self._moved(size)

        return moved

    def _verify(self, file: _File, source: Place, destination: Place) -> None:
        if file.external is not None:
            found = checksum(destination.path, file.algorithm or "MD5")
            if found != file.external.lower():
                details = f"{file.destination}: {file.algorithm or 'MD5'} expected {file.external}, got {found}"
                raise Fault(VERIFY_CHECKSUM, details, fatal=True)
        elif self._task.document.get("verify_checksum"):
            if contents_digest(source.path) != contents_digest(destination.path):
                raise Fault(VERIFY_CHECKSUM, f"{file.destination}: it is not what {file.source} is")
        else:
            return
        self._task.bytes_checksummed += destination.path.stat().st_size


class DeleteRun:
    """Removes what a delete task names. ``moved`` as for :class:`TransferRun`."""

    def __init__(self, task: Task, owner: Caller, collection: Collection, moved: Callable[[int], None]) -> None:
        self._task = task
        self._owner = owner
        self._collection = collection
        self._moved = moved

    def attempt(self) -> None:
        """Remove what is still there.

        Raises:
            Fault: It did not go well.
        """
        document: dict[str, Any] = self._task.document
        self._task.files = len(document["DATA"])
        for item in document["DATA"][self._task.files_moved :]:
            self._moved(0)
            with _faults():
                path = self._collection.allow(self._owner, item["path"], "rw").path
                if path == self._collection.root:
                    raise NotAllowed(f"{item['path']}: Permission denied")
                if path.is_dir() and document.get("recursive"):
                    shutil.rmtree(path)
                elif path.is_dir():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=bool(document.get("ignore_missing")))
            self._task.files_moved += 1


@contextmanager
def _faults(*, fatal_quota: bool = False) -> Iterator[None]:
    """Errors of the file system, as faults of the task."""
    try:
        yield
    except NotAllowed as error:
        raise Fault(PERMISSION_DENIED, str(error)) from error
    except OSError as error:
        code = _CODES.get(error.errno or 0, ENDPOINT_ERROR)
        raise Fault(code, str(error), fatal=fatal_quota and code == QUOTA_EXCEEDED) from error


def _same(level: Any, source: Path, destination: Path, algorithm: str | None) -> bool:
    """Whether a sync level says that there is nothing to move."""
    if level is None or not destination.is_file():
        return False
    ours, theirs = source.stat(), destination.stat()
    match int(level):
        case 0:
            return True
        case 1:
            return ours.st_size == theirs.st_size
        case 2:
            return ours.st_mtime <= theirs.st_mtime
        case _ if algorithm:
            return checksum(source, algorithm) == checksum(destination, algorithm)
        case _:
            return contents_digest(source) == contents_digest(destination)
