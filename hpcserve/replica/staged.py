"""Results that are too large for the socket: written to a file on the site, of which the result tells.

Each caller's files lie in a directory of its own, of mode 0700, whose name comes from the broker. A file appears under
its name when all of it is on the disk; what fails half-way leaves nothing. Nothing is ever opened through a symbolic
link in that directory: the servable's own code may write there.

When a file is removed again the controller decides.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Protocol

from hpcserve.core.tiers import HTTPS, INLINE, STAGED, is_staged
from hpcserve.errors import HpcserveError, InvalidInput, InvalidOutput, ServableError, ServiceUnavailable, StorageFull
from hpcserve.replica import hdf5
from hpcserve.replica.usage import Usage
from hpcserve.types import RequestKey
from hpcserve.wire import messages as wire
from hpcserve.wire.launch import StagingRules
from hpcserve.wire.staged import PARTIAL, SUFFIX

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
RETRY_S = 10.0


class Outlet(Protocol):
    """Where the outputs of one request go."""

    def __call__(self, method: str, outputs: Mapping[str, Any]) -> wire.Staged | None:
        """Writes them to a file; None: they are to travel in the message.

        Raises:
            HpcserveError: They cannot be written.
        """


class Stager:
    """Writes the results of one replica.

    Args:
        rules: The site's.
        servable: The servable's name.
        version: The sha256 that names its version.
        replica: The replica's id.
        image: The sha256 of its container image, or empty.
        most_inline_bytes: A larger result does not fit into a message.
    """

    def __init__(
        self,
        rules: StagingRules,
        *,
        servable: str = "",
        version: str = "",
        replica: str = "",
        image: str = "",
        most_inline_bytes: int = 1 << 62,
    ) -> None:
        self._rules = rules
        self._seen = rules.seen.get(rules.directory, rules.directory)
        self._about = {"servable": servable, "version": version, "image": image, "replica": replica}
        self._most_inline_bytes = most_inline_bytes
        self._usage = Usage()

    def outlet(self, key: RequestKey, work: wire.Work) -> Outlet | None:
        """That of a request; None: all that it comes to travels in the message."""
        if not work.stage or not self._rules.directory or work.reply == INLINE:
            return None

        def let_out(method: str, outputs: Mapping[str, Any]) -> wire.Staged | None:
            size_bytes = hdf5.size_bytes(outputs)
            if not is_staged(
                size_bytes,
                work.reply,
                inline_limit_bytes=self._rules.inline_limit_bytes,
                https_limit_bytes=self._rules.https_limit_bytes,
                most_inline_bytes=self._most_inline_bytes,
            ):
                return None
            wanted = work.reply == STAGED
            try:
                written = self._write(key, work.stage, method, outputs, size_bytes)
            except (StorageFull, ServiceUnavailable, ServableError) as error:
                if wanted or size_bytes > self._most_inline_bytes:
                    raise
                # All callers of the servable may read this, and the message names one of them.
                where = self._rules.directory
                sys.stderr.write(
                    f"a result of {size_bytes} bytes travels in its message, not in {where}: {error.code}\n"
                )
                return None

            # HDF5 fills chunks up: the file may be larger than what is in it.
            too_large = work.reply == HTTPS and written.size_bytes > self._rules.https_limit_bytes
            if too_large and size_bytes <= self._most_inline_bytes:
                self._take_back(work.stage, written)
                return None
            return written

        return let_out

    def _take_back(self, stage: str, written: wire.Staged) -> None:
        with contextlib.suppress(OSError), self._directory(stage) as directory:  # it is removed in time, if not now
            os.unlink(written.path.rpartition("/")[2], dir_fd=directory)
            self._usage.add(stage, -written.size_bytes)

    def _write(
        self, key: RequestKey, stage: str, method: str, outputs: Mapping[str, Any], size_bytes: int
    ) -> wire.Staged:
        try:
            tensors = hdf5.tensors_of(outputs)
        except InvalidInput as error:
            raise InvalidOutput(f"method {method!r} returned what cannot travel: {error.message}") from error
        about = {
            **self._about,
            "method": method,
            "request": f"{key[0].hex()}/{key[1]}",
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        name = f"{self._about['replica'] or 'result'}-{key[1]}-{secrets.token_hex(8)}{SUFFIX}"
        try:
            with self._directory(stage) as directory:
                self._check_quota(directory, stage, size_bytes)
                written, size = self._write_whole(directory, name, tensors, about)
                self._usage.add(stage, size)
        except ImportError as error:
            raise ServableError(
                f"a result of {size_bytes} bytes is staged, and the Python of this servable has no h5py: install it "
                "there, or in an image by: hpcserve container runtime IMAGE"
            ) from error
        except OSError as error:
            raise _storage_error(error, f"{self._rules.directory}/{stage}", size_bytes) from error
        return wire.Staged(f"{self._rules.directory}/{stage}/{name}", size, written)

    @contextlib.contextmanager
    def _directory(self, stage: str) -> Any:
        """The descriptor of a caller's own directory, which is made where it is missing."""
        above = os.open(self._seen, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(stage, 0o700, dir_fd=above)
            directory = os.open(stage, _DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
        try:
            yield directory
        finally:
            os.close(directory)

    def _check_quota(self, directory: int, stage: str, size_bytes: int) -> None:
        if not self._rules.quota_bytes:
            return
        quota_bytes = self._rules.quota_bytes
        used = self._usage.used_bytes(stage, directory, room_for=size_bytes, quota_bytes=quota_bytes)
        if used + size_bytes > quota_bytes:
            raise StorageFull(
                f"a result of {size_bytes} bytes does not fit: the staged results of {stage} take {used} of "
                f"{quota_bytes} bytes (staging.quota_bytes); fetch what is there, or give it up: hpcserve results"
            )

    def _write_whole(
        self, directory: int, name: str, tensors: list[hdf5.Tensor], about: Mapping[str, str]
    ) -> tuple[tuple[wire.StagedTensor, ...], int]:
        """Writes the file under another name, and renames it when it is on the disk."""
        partial = f".{name}{PARTIAL}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(partial, flags, 0o600, dir_fd=directory)
        try:
            written = hdf5.write(
                f"/proc/self/fd/{file}",
                tensors,
                about,
                chunk_bytes=self._rules.chunk_bytes,
                compress=self._rules.compression == "gzip",
            )
            os.fsync(file)
            os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):  # the directory may be gone, which is what went wrong
                os.unlink(partial, dir_fd=directory)
            raise
        else:
            os.fsync(directory)
            return written, os.fstat(file).st_size
        finally:
            os.close(file)


def _storage_error(error: OSError, where: str, size_bytes: int) -> HpcserveError:
    # h5py 3.16 hands HDF5's text on, and errno only where a file is opened.
    number = error.errno if error.errno is not None else _errno_in(str(error))
    if number in StorageFull.errnos:
        return StorageFull(
            f"a result of {size_bytes} bytes cannot be written to {where}: {os.strerror(number or 0)}; make room "
            "there, or have the site's staging.directory elsewhere"
        )
    return ServiceUnavailable(
        f"a result of {size_bytes} bytes cannot be written to {where}: {error}; see that the directory is there, and "
        "that pilots may write to it",
        retry_after_s=RETRY_S,
    )


def _errno_in(text: str) -> int | None:
    """``… errno = 28, error message = …``, as HDF5 puts it."""
    _, found, rest = text.partition("errno = ")
    number = rest.partition(",")[0].strip()
    return int(number) if found and number.isdigit() else None
