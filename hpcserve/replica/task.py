"""A request at its replica."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hpcserve.replica.link import Tensor
from hpcserve.types import RequestKey
from hpcserve.wire import messages as wire


class Task(msgspec.Struct, gc=False):
    """A request in the inbox. ``deadline`` in monotonic seconds of this machine."""

    key: RequestKey
    work: wire.Work
    method: str
    tensors: Sequence[Tensor]
    deadline: float
    samples: int
