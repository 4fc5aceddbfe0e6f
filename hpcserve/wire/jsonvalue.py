"""JSON values as tensors: the marker that asks for it, and the text's two directions.

Numbers are finite and text is valid Unicode, in both directions: JSON has no NaN.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from hpcserve.errors import InvalidInput, ProtocolError

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_loads = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Json:
    """Marks ``value`` (dict, list, str, int, float, bool, None) to travel as JSON and not as an array.

    As always with JSON, a tuple arrives as a list and a number used as a key as text.
    """

    value: Any


def encode_json(name: str, value: Any) -> bytes:
    """``value`` as UTF-8 JSON.

    Raises:
        InvalidInput: JSON cannot hold it; the message names the tensor.
    """
    try:
        return _dumps(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"tensor {name!r}: {error}; JSON holds dict, list, str, int, bool, None and finite floats "
            f"(send arrays as tensors of their own, numpy scalars as .item())"
        ) from error


def decode_json(name: str, frame: bytes | bytearray | memoryview) -> Any:
    """The Python value in ``frame``.

    Raises:
        ProtocolError: The frame is not JSON; NaN and infinities are not.
    """
    try:
        return _loads(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"tensor {name!r}: malformed JSON: {error}") from error
