"""From the tensors of one request to the tensors, or the error, of its result.

Inputs are checked once for each distinct signature, which is recognised by its bytes in the header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from hpcserve.errors import HpcserveError, InvalidInput, InvalidOutput, ServableError, UnknownMethod
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.signature import check_inputs
from hpcserve.wire.frames import enclose, error_to_wire, from_raw
from hpcserve.wire.messages import EMPTY_LIST, EMPTY_MAP, ErrorInfo
from hpcserve.wire.tensor import Frame, pack, signature, unpack

Tensor = Frame
MAX_KNOWN = 4096
_NO_PARAMETERS = bytes(EMPTY_MAP)


class Outcome(msgspec.Struct, gc=False):
    """What a request came to: tensors as they travel, or an error."""

    tensors: msgspec.Raw
    frames: Sequence[Tensor]
    error: ErrorInfo | None = None
    enclosed: tuple[bytes, ...] = ()


class Executor:
    """Runs the methods of one loaded servable."""

    def __init__(self, loaded: Loaded, default_method: str) -> None:
        self._loaded = loaded
        self._default = default_method
        self._names: dict[tuple[str, bytes], tuple[str, ...]] = {}

    def run(self, method: str, specs: msgspec.Raw, frames: Sequence[Tensor], parameters: msgspec.Raw) -> Outcome:
        """Calls ``method``; whatever goes wrong becomes the outcome's error."""
        method = method or self._default
        try:
            names = self._declared(method, specs)
            inputs = unpack(specs, frames, writable=True, names=names)
            given = {} if bytes(parameters) == _NO_PARAMETERS else from_raw(parameters, dict[str, Any])
            outputs = self._loaded.run(method, inputs, given)
            described, packed = _packed(method, outputs)
            kept = _own(packed, outputs, inputs)
            return Outcome(described, kept, None, enclose(kept))
        except HpcserveError as error:
            return failed(error)
        except MemoryError as error:
            return failed(ServableError(f"method {method!r}: out of memory: {error}"))

    def _declared(self, method: str, specs: msgspec.Raw) -> tuple[str, ...]:
        """The declared names of the inputs in the order given, after the check of names, dtypes and shapes."""
        key = (method, bytes(specs))
        names = self._names.get(key)
        if names is None:
            spec = self._loaded.methods.get(method)
            if spec is None:
                known = ", ".join(sorted(self._loaded.methods))
                raise UnknownMethod(f"the servable has no method {method!r}; it has: {known}")
            names = check_inputs(method, spec, signature(specs))
            if len(self._names) >= MAX_KNOWN:
                self._names.clear()
            self._names[key] = names
        return names


def _packed(method: str, outputs: dict[str, Any]) -> tuple[msgspec.Raw, list[Tensor]]:
    try:
        return pack(outputs)
    except InvalidInput as error:
        raise InvalidOutput(f"method {method!r} returned what cannot travel: {error.message}") from error


def failed(error: HpcserveError) -> Outcome:
    """The outcome of a request that did not succeed."""
    return Outcome(EMPTY_LIST, (), error_to_wire(error))


def _own(frames: Sequence[Tensor], outputs: dict[str, Any], inputs: dict[str, Any]) -> list[Tensor]:
    """The frames, each of them safe from what the servable does next.

    A result is kept until it is acknowledged, and a servable may use its output array again for the next
    call: so a view of its memory is copied, unless it is a view of the request's own frames.
    """
    if len(frames) == 1 and type(frames[0]) is bytes:
        return [frames[0]]
    return [
        frame if type(frame) is bytes or _is_input(output, inputs) else bytes(frame)
        for frame, output in zip(frames, outputs.values(), strict=True)
    ]


def _is_input(output: Any, inputs: dict[str, Any]) -> bool:
    return isinstance(output, np.ndarray) and any(
        isinstance(given, np.ndarray) and np.may_share_memory(output, given) for given in inputs.values()
    )
