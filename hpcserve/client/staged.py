"""A result in a file, as its caller has it: whole, or left there until a part of it is wanted."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hpcserve.wire.messages import Staged, StagedTensor

if TYPE_CHECKING:
    import h5py


class StagedArray:
    """One output that is in a file. Indexing reads that part; ``numpy.asarray()`` reads all of it.

    Attributes:
        dtype: The name of its dtype on the wire.
        shape: Its shape.
    """

    def __init__(self, file: StagedFile, tensor: StagedTensor) -> None:
        self._file = file  # which is there as long as somebody has it
        self._path = file.path
        self._tensor = tensor
        self.dtype = tensor.dtype
        self.shape = tensor.shape

    def __getitem__(self, selection: Any) -> Any:
        from hpcserve.staging import hdf5

        return hdf5.value(self._path, self._tensor, selection)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:  # noqa: FBT001 (numpy's)
        return np.asarray(self[...], dtype=dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<StagedArray {self.dtype}{list(self.shape)} in {self._path}#{self._tensor.path}>"


class StagedFile:
    """The file that a result is in.

    Attributes:
        path: Where it is seen here.
        site_path: Where it is on the site, as long as it is kept there.
        size_bytes: Its size.
        own: It came here for its caller alone, and goes when nobody has it, or an array in it, any more.
    """

    def __init__(self, path: Path, staged: Staged, delivered: Callable[[str], None], *, own: bool = False) -> None:
        self.path = path
        self.own = own
        if own:
            weakref.finalize(self, _remove, path, os.getpid())
        self.site_path = staged.path
        self.size_bytes = staged.size_bytes
        self._staged = staged
        self._delivered = delivered

    def open(self) -> AbstractContextManager[h5py.File]:
        """The file, open for reading, for ``with``. Its data sets have the names of the outputs.

        Raises:
            StagedFileGone: It was removed.
            TransferFailed: It cannot be read.
        """
        from hpcserve.staging import hdf5

        return hdf5.opened(self.path)

    def load(self) -> dict[str, Any]:
        """All outputs by name, checked by their sha256. The service may remove the file some time after that.

        Raises:
            StagedFileGone: It was removed.
            TransferFailed: It is damaged, or cannot be read.
        """
        from hpcserve.staging import hdf5

        found = hdf5.load(self.path, self._staged)
        self._delivered(self._staged.path)
        return found

    def verify(self) -> None:
        """As :meth:`load`, but keeps nothing in memory."""
        from hpcserve.staging import hdf5

        hdf5.verify(self.path, self._staged)
        self._delivered(self._staged.path)

    def arrays(self) -> dict[str, Any]:
        """The outputs by name, left in the file."""
        return {tensor.name: StagedArray(self, tensor) for tensor in self._staged.tensors}

    def __repr__(self) -> str:
        return f"<StagedFile {self.path}, {self.size_bytes} bytes>"


def _remove(path: Path, process: int) -> None:
    """Not in a forked child: there its parent has it."""
    if os.getpid() == process:
        path.unlink(missing_ok=True)
