"""BYTES tensors: elements of any length in one frame.

Each element is its length (4 bytes, unsigned, little-endian) and its bytes; elements follow in row-major
order with nothing between them.

Source: KServe Open Inference Protocol, Binary Tensor Data Extension.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcserve.errors import InvalidInput, ProtocolError

_LENGTH = struct.Struct("<I")
MAX_ELEMENT_BYTES = (1 << 32) - 1


def _as_bytes(name: str, element: object) -> bytes:
    if isinstance(element, bytes):
        content = element
    elif isinstance(element, str):
        try:
            content = element.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"tensor {name!r}: text is not valid Unicode: {error}; send it as bytes") from error
    else:
        raise InvalidInput(
            f"tensor {name!r}: an array of objects may hold bytes and text only, found {type(element).__name__}; "
            f"convert it to a numeric dtype, or wrap the value in Json(...)"
        )
    if len(content) > MAX_ELEMENT_BYTES:
        raise InvalidInput(f"tensor {name!r}: an element has {len(content)} bytes, at most {MAX_ELEMENT_BYTES} fit")
    return content


def encode_elements(name: str, array: npt.NDArray[Any]) -> bytes:
    """The frame of an array of bytes and text (text as UTF-8).

    Raises:
        InvalidInput: An element is something else; the message names the tensor.
    """
    parts: list[bytes] = []
    # tolist() of an 'S' or 'U' array gives bytes and str, of an object array the objects themselves.
    for element in array.ravel(order="C").tolist():
        content = _as_bytes(name, element)
        parts += (_LENGTH.pack(len(content)), content)
    return b"".join(parts)


def decode_elements(
    name: str, shape: tuple[int, ...], count: int, frame: bytes | bytearray | memoryview
) -> npt.NDArray[Any]:
    """The object array of ``count`` bytes elements in ``frame``, in ``shape``.

    Raises:
        ProtocolError: The frame does not hold exactly that many elements.
    """
    view = memoryview(frame).cast("B")
    # Checked before the array is made, so that a claim in a header cannot reserve memory.
    if count * _LENGTH.size > len(view):
        raise ProtocolError(f"tensor {name!r}: {len(view)} bytes cannot hold {count} elements")
    elements = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        start = offset + _LENGTH.size
        if start > len(view):
            raise ProtocolError(f"tensor {name!r}: element {index} of {count} has no length: the frame ends before")
        offset = start + _LENGTH.unpack_from(view, offset)[0]
        if offset > len(view):
            raise ProtocolError(f"tensor {name!r}: element {index} of {count} is longer than the rest of its frame")
        elements[index] = bytes(view[start:offset])
    if offset != len(view):
        raise ProtocolError(f"tensor {name!r}: {len(view) - offset} bytes follow its {count} elements")
    return elements.reshape(shape)
