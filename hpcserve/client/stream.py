"""What a caller reads a stream by, in threads; for asyncio see :mod:`hpcserve.client.aio_stream`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from hpcserve.client.outputs import Outputs
from hpcserve.client.streaming import Streaming
from hpcserve.types import Counter

if TYPE_CHECKING:
    from hpcserve.client.shared import SharedEngine


class Stream(Iterator[Outputs]):
    """The items of a stream, in order. Closing it ends its producer; so does ``with``, and dropping it.

    An error comes after the items before it.
    """

    def __init__(self, shared: SharedEngine, id: Counter, call: Streaming) -> None:
        self._shared = shared
        self._id = id
        self._call = call
        self._turn = threading.Lock()
        self._closed = False

    def __next__(self) -> Outputs:
        call = self._call
        with self._turn:
            while not self._closed:
                is_over = call.is_over  # before the look: the last items and the end may come right after that
                item = call.take_first()
                if item is not None:
                    self._shared.read(self._id, call, item)
                    return item.outputs()
                if self._closed:
                    break
                if is_over:
                    self._closed = True
                    call.outcome()  # which raises the error that it ended with
                    break
                self._shared.rearm(call)
                self._shared.wait(call, None)
        raise StopIteration

    def close(self) -> None:
        """Takes the request back, if it has not ended; what has come is dropped."""
        self._closed = True
        self._shared.cancel(self._id)
        self._call.came.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            self._shared.abandon(self._id)
