"""What a request came to: the outputs of its method as they travel, or an error. Nothing here calls a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from hpcserve.errors import DeadlineExceeded, HpcserveError, InvalidInput, InvalidOutput
from hpcserve.replica.staged import Outlet
from hpcserve.wire.frames import enclose, error_to_wire
from hpcserve.wire.messages import EMPTY_LIST, ErrorInfo, Staged
from hpcserve.wire.tensor import Frame, pack

Tensor = Frame
RESULT_BYTES = 512


class Outcome(msgspec.Struct, gc=False):
    """What a request came to: tensors as they travel, or an error.

    ``items``: as the end of a stream of so many. ``staged``: its tensors are in a file.
    """

    tensors: msgspec.Raw
    frames: Sequence[Tensor]
    error: ErrorInfo | None = None
    enclosed: tuple[bytes, ...] = ()
    items: int | None = None
    staged: Staged | None = None

    @property
    def size_bytes(self) -> int:
        """What keeping it costs, roughly: an empty one and an error are not free."""
        told = self.error
        words = 0 if told is None else len(told.message) + len(told.traceback or "")
        return RESULT_BYTES + words + sum(map(_length, self.frames))


def returned(method: str, outputs: dict[str, Any], inputs: dict[str, Any], outlet: Outlet | None = None) -> Outcome:
    """The outcome of a method that has returned.

    Args:
        method: Its name.
        outputs: What it has returned.
        inputs: What it was given: views of that need no copy.
        outlet: Where its outputs may go.

    Raises:
        HpcserveError: They cannot travel, or go there.
    """
    staged = None if outlet is None else outlet(method, outputs)
    if staged is not None:
        return Outcome(EMPTY_LIST, (), staged=staged)
    described, packed = _packed(method, outputs)
    kept = _own(packed, outputs, inputs)
    return Outcome(described, kept, None, enclose(kept))


def _packed(method: str, outputs: dict[str, Any]) -> tuple[msgspec.Raw, list[Tensor]]:
    try:
        return pack(outputs)
    except InvalidInput as error:
        raise InvalidOutput(f"method {method!r} returned what cannot travel: {error.message}") from error


def failed(error: HpcserveError) -> Outcome:
    """The outcome of a request that did not succeed."""
    return Outcome(EMPTY_LIST, (), error_to_wire(error))


def late() -> Outcome:
    """What is told of a request whose time was over before it ran."""
    return failed(DeadlineExceeded("the deadline passed while the request waited at its replica"))


def too_large(method: str, size_bytes: int, largest_bytes: int) -> Outcome:
    """What is told in place of a result of which so many bytes cannot travel."""
    return failed(
        InvalidOutput(
            f"method {method!r} returned {size_bytes} bytes: at most {largest_bytes} travel in one result; return "
            "less, or raise budgets.outbox_bytes in the site file"
        )
    )


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


def _length(frame: Tensor) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)
