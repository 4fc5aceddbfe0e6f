"""One rank's share of a batch: its inputs as they arrive, its run, its outputs as they leave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.replica.buffers import Buffers
from hpcserve.replica.joint import check_samples
from hpcserve.servable.loaded import Loaded
from hpcserve.wire.dtype_names import BYTES
from hpcserve.wire.dtypes import dtype_named, native_name
from hpcserve.wire.elements import encode_elements
from hpcserve.wire.ranks import Piece

Array = npt.NDArray[Any]
Portion = dict[str, "Array | bytes"]
"""Each output: contiguous and native, or the frame of one of BYTES."""


def run_share(
    loaded: Loaded, method: str, inputs: Mapping[str, Any], parameters: Mapping[str, Any], samples: int
) -> tuple[tuple[Piece, ...], Portion] | HpcserveError:
    """Calls ``method`` for a share of so many samples; whatever goes wrong becomes the error that it returns."""
    try:
        outputs = loaded.run(method, inputs, parameters)
        check_samples(method, outputs, samples)
        portion = {name: _leaving(name, output) for name, output in outputs.items()}
        return tuple(_piece(name, outputs[name], part) for name, part in portion.items()), portion
    except HpcserveError as error:
        return error
    except MemoryError as error:
        failure = ServableError(f"method {method!r}: out of memory: {error}")
        failure.__cause__ = error
        return failure


def room(piece: Piece, buffers: Buffers) -> Array:
    """Memory for a tensor that is no BYTES."""
    dtype = dtype_named(piece.dtype)
    return buffers.take(math.prod(piece.shape) * dtype.itemsize).view(dtype).reshape(piece.shape)


def row_bytes(piece: Piece) -> int:
    """The size of one sample."""
    return math.prod(piece.shape[1:]) * dtype_named(piece.dtype).itemsize


def _leaving(name: str, output: Any) -> Array | bytes:
    array = output if isinstance(output, np.ndarray) else np.asarray(output)
    if array.dtype.kind in "SUO":
        return encode_elements(name, array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array)


def _piece(name: str, output: Any, part: Array | bytes) -> Piece:
    if isinstance(part, bytes):
        return Piece(name, BYTES, np.shape(output), len(part))
    return Piece(name, native_name(part.dtype) or part.dtype.name, part.shape)
