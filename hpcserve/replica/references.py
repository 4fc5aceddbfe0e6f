"""Inputs that lie in files: read where a request's caller may read, and handed on as if they had come with it.

The broker has said by name what is allowed (:mod:`hpcserve.core.sitepaths`). Names can lie: a path may go through a
symbolic link, and an HDF5 file may itself point to others, by an external link, by external storage, or as a virtual
data set. So a file is opened first, and then looked at where it really is; and what leads out of it is refused.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from hpcserve.core.sitepaths import is_below, of_word
from hpcserve.errors import (
    DeadlineExceeded,
    HpcserveError,
    InvalidInput,
    PermissionDenied,
    ProtocolError,
    ServableError,
)
from hpcserve.replica.inputfiles import Found, found
from hpcserve.wire import messages as wire
from hpcserve.wire.dtype_names import REFERENCE
from hpcserve.wire.frames import decoder, encode
from hpcserve.wire.launch import StagingRules
from hpcserve.wire.tensor import Frame

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_decode = decoder(tuple[wire.TensorSpec, ...])


class References:
    """Reads the references of requests.

    Args:
        rules: The site's.
        clock: Monotonic seconds.
    """

    def __init__(self, rules: StagingRules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock

    def read(
        self, work: wire.Work, frames: Sequence[Frame], check: Callable[[msgspec.Raw], None], *, deadline: float
    ) -> tuple[wire.Work, list[Frame]]:
        """The request with its references read.

        Args:
            work: The request.
            frames: Those that came with it.
            check: Raises what speaks against the tensors, before they are read.
            deadline: Nobody waits for them after that, in monotonic seconds.

        Raises:
            DeadlineExceeded: They cannot be read by then.
            PermissionDenied: One leads to where its caller may not read.
            InvalidInput: There is nothing to read, or too much.
            HpcserveError: What ``check`` raises.
        """
        specs = list(_decode(work.tensors))
        if len(specs) != len(frames) or len(work.references) != sum(spec.dtype == REFERENCE for spec in specs):
            raise ProtocolError(f"{len(work.references)} references are listed, and the tensors have others")
        places = [index for index, spec in enumerate(specs) if spec.dtype == REFERENCE]
        left, given = self._rules.reference_bytes, list(frames)

        def on_time() -> None:
            if self._clock() >= deadline:
                raise DeadlineExceeded("the deadline passed while the request's references were read")

        with contextlib.ExitStack() as stack:
            tensors = [stack.enter_context(self._found(word, work.read_below)) for word in work.references]
            for index, tensor in zip(places, tensors, strict=True):
                specs[index] = wire.TensorSpec(specs[index].name, tensor.dtype, tensor.shape)
            described = msgspec.Raw(encode(specs))
            check(described)
            for index, word, tensor in zip(places, work.references, tensors, strict=True):
                with _told(word):
                    given[index] = tensor.read(left, on_time)
                left -= len(given[index])
        return msgspec.structs.replace(work, tensors=described, references=()), given

    @contextlib.contextmanager
    def _found(self, word: str, below: Sequence[str]) -> Iterator[Found]:
        """What a reference leads to; the file stays open."""
        path, dataset = of_word(word)
        with (
            self._opened(path, below) as descriptor,
            _told(word),
            found(descriptor, path, dataset, self._rules.reference_bytes) as tensor,
        ):
            yield tensor

    @contextlib.contextmanager
    def _opened(self, path: str, below: Sequence[str]) -> Iterator[int]:
        """A file of the site, open, if it really is where its caller may read."""
        try:
            descriptor = os.open(self._seen(path), _OPEN)
        except OSError as error:
            raise InvalidInput(f"reference {path}: {error.strerror}; give a file that pilots see") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidInput(f"reference {path}: it is no ordinary file")
            real = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            if not any(is_below(real, self._really(root)) for root in below):
                raise PermissionDenied(f"reference {path}: a symbolic link leads out of {', '.join(below) or 'all'}")
            yield descriptor
        finally:
            os.close(descriptor)

    def _really(self, root: str) -> str:
        """Where a directory is. What lies in that of staged results any container may replace by a link."""
        staged = self._rules.directory
        if staged and root != staged and is_below(root, staged):
            return os.path.realpath(self._seen(staged)) + root[len(staged.rstrip("/")) :]
        return os.path.realpath(self._seen(root))

    def _seen(self, path: str) -> str:
        """Where this process sees a path of the site."""
        for outside, inside in self._rules.seen.items():
            if is_below(path, outside):
                return inside + path[len(outside.rstrip("/")) :]
        return path


@contextlib.contextmanager
def _told(word: str) -> Iterator[None]:
    """What is wrong with a file is its request's error, and nobody else's."""
    path, dataset = of_word(word)
    try:
        yield
    except ImportError as error:
        raise ServableError(
            f"{path} is HDF5, and the Python of this servable has no h5py: install it there, or in an image "
            "by: hpcserve container runtime IMAGE"
        ) from error
    except (HpcserveError, MemoryError):
        raise
    except Exception as error:  # the parsers of numpy and h5py are foreign code and raise what they like
        raise InvalidInput(f"reference {path}#{dataset}: it cannot be read: {error}") from error
