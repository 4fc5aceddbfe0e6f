"""Inputs that lie in files: read where a request's caller may read, and handed on as if they had come with it.

The broker has said by name what is allowed (:mod:`hpcserve.core.sitepaths`). Names can lie: a path may go through a
symbolic link, and an HDF5 file may itself point to others, by an external link, by external storage, or as a virtual
data set. So a file is opened first, and then looked at where it really is; and what leads out of it is refused.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from hpcserve.core.sitepaths import is_below, of_word
from hpcserve.errors import HpcserveError, InvalidInput, PermissionDenied, ProtocolError, ServableError
from hpcserve.wire import messages as wire
from hpcserve.wire.dtype_names import BYTES, REFERENCE
from hpcserve.wire.dtypes import native_name
from hpcserve.wire.elements import encode_elements
from hpcserve.wire.frames import decoder, encode
from hpcserve.wire.launch import StagingRules
from hpcserve.wire.staged import stored_as
from hpcserve.wire.tensor import Frame

if TYPE_CHECKING:
    import h5py

MOST_LINKS = 16
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_decode = decoder(tuple[wire.TensorSpec, ...])


class Read(NamedTuple):
    """What a reference leads to, as it would have travelled."""

    dtype: str
    shape: tuple[int, ...]
    frame: Frame


class References:
    """Reads the references of requests.

    Args:
        rules: The site's.
    """

    def __init__(self, rules: StagingRules) -> None:
        self._rules = rules

    def read(self, work: wire.Work, frames: Sequence[Frame]) -> tuple[wire.Work, list[Frame]]:
        """The request with its references read.

        Raises:
            PermissionDenied: One leads to where its caller may not read.
            InvalidInput: There is nothing to read, or too much.
        """
        specs = list(_decode(work.tensors))
        if len(specs) != len(frames) or len(work.references) != sum(spec.dtype == REFERENCE for spec in specs):
            raise ProtocolError(f"{len(work.references)} references are listed, and the tensors have others")
        left, words, given = self._rules.reference_bytes, iter(work.references), list(frames)
        for index, spec in enumerate(specs):
            if spec.dtype == REFERENCE:
                found = self._read(next(words), work.read_below, left)
                left -= len(found.frame)
                specs[index], given[index] = wire.TensorSpec(spec.name, found.dtype, found.shape), found.frame
        return msgspec.structs.replace(work, tensors=msgspec.Raw(encode(specs)), references=()), given

    def _read(self, word: str, below: Sequence[str], most_bytes: int) -> Read:
        where = of_word(word)
        path, dataset = where
        with self._opened(path, below) as descriptor:
            try:
                if path.endswith(".npy") and not dataset:
                    return _of_npy(descriptor, path, most_bytes)
                return _of_hdf5(descriptor, path, dataset, most_bytes)
            except ImportError as error:
                raise ServableError(
                    f"{path} is HDF5, and the Python of this servable has no h5py: install it there, or in an image "
                    "by: hpcserve container runtime IMAGE"
                ) from error
            except HpcserveError:
                raise
            except (OSError, ValueError, EOFError, RuntimeError) as error:
                raise InvalidInput(f"reference {path}#{dataset}: it cannot be read: {error}") from error

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


def _of_npy(descriptor: int, path: str, most_bytes: int) -> Read:
    with open(os.dup(descriptor), "rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        _check_size(path, shape, dtype.itemsize, most_bytes)
        if dtype.hasobject:
            raise InvalidInput(f"reference {path}: it holds Python objects, which are not read; save plain numbers")
        array = np.empty(shape, dtype, order="F" if fortran else "C")
        content = array.reshape(-1, order="A").view(np.uint8).data
        filled = file.readinto(content) if array.size else 0
        if filled != array.nbytes:
            raise InvalidInput(f"reference {path}: the file ends after {filled} of {array.nbytes} bytes")
    return _travelling(path, array)


def _of_hdf5(descriptor: int, path: str, dataset: str, most_bytes: int) -> Read:
    import h5py

    with h5py.File(f"/proc/self/fd/{descriptor}", "r", locking=False) as file:
        found = _dataset(file, path, dataset)
        if found.external is not None or found.is_virtual:
            raise PermissionDenied(f"reference {path}#{dataset}: its data are in other files; copy them into this one")
        _check_size(path, found.shape, found.dtype.itemsize, most_bytes)
        if h5py.check_string_dtype(found.dtype) is not None:
            elements = np.asarray(found[()], dtype=object)
            return Read(BYTES, found.shape, encode_elements(path, elements))
        if found.dtype.hasobject:
            raise InvalidInput(f"reference {path}#{dataset}: {found.dtype} cannot be an input; store plain numbers")
        array = np.empty(found.shape, found.dtype)
        if array.size:
            found.read_direct(array) if array.ndim else array.__setitem__((), found[()])
        return _as_staged(found, array) or _travelling(f"{path}#{dataset}", array)


def _as_staged(found: h5py.Dataset, array: npt.NDArray[Any]) -> Read | None:
    """What :mod:`hpcserve.replica.hdf5` has stored as something else."""
    dtype, shape = found.attrs.get("dtype"), found.attrs.get("shape")
    if not isinstance(dtype, str) or shape is None or stored_as(dtype) != array.dtype.name:
        return None
    return Read(dtype, tuple(int(axis) for axis in shape), _octets(array))


def _dataset(file: h5py.File, path: str, wanted: str) -> h5py.Dataset:
    import h5py

    if not wanted:
        names = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        if len(names) != 1:
            listed = ", ".join(sorted(names)[:MOST_LINKS]) or "none"
            raise InvalidInput(f"reference {path}: name one data set by #/NAME; it has: {listed}")
        wanted = names[0]
    here: Any = file
    left = [each for each in reversed(wanted.split("/")) if each not in ("", ".")]
    links = 0
    while left:
        name = left.pop()
        link = here.get(name, getlink=True) if isinstance(here, h5py.Group) else None
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > MOST_LINKS:
                raise InvalidInput(f"reference {path}#{wanted}: more than {MOST_LINKS} links one after the other")
            here = file if link.path.startswith("/") else here
            left += [each for each in reversed(link.path.split("/")) if each not in ("", ".")]
        elif isinstance(link, h5py.HardLink):
            here = here[name]
        elif link is None:
            raise InvalidInput(f"reference {path}#{wanted}: there is no {name!r} in it")
        else:
            raise PermissionDenied(f"reference {path}#{wanted}: {name!r} is a link to another file; name that file")
    if not isinstance(here, h5py.Dataset):
        raise InvalidInput(f"reference {path}#{wanted}: it is no data set")
    return here


def _travelling(what: str, array: npt.NDArray[Any]) -> Read:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    dtype = native_name(array.dtype)
    if dtype is None:
        raise InvalidInput(f"reference {what}: dtype {array.dtype} cannot be an input; convert it")
    return Read(dtype, array.shape, _octets(array))


def _octets(array: npt.NDArray[Any]) -> Frame:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def _check_size(path: str, shape: tuple[int, ...], itemsize: int, most_bytes: int) -> None:
    size_bytes = itemsize
    for axis in shape:
        size_bytes *= axis
    if size_bytes > most_bytes:
        raise InvalidInput(
            f"reference {path}: it has {size_bytes} bytes, and {most_bytes} may still be read for this request "
            "(staging.reference_bytes); refer to less"
        )
