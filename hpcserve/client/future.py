"""The future of a submitted call, whose waiter reads the socket itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from hpcserve.client.outputs import Outputs

if TYPE_CHECKING:
    from hpcserve.client.sending import Transfer


class InferenceFuture(Future[Outputs]):
    """A future whose waiter reads the socket itself. ``cancel()`` takes the request back, running or not.

    Attributes:
        transfer: Of a result that is brought to a collection: how far that is. None: it has not begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transfer: Transfer | None = None
        self._read: Callable[[float | None], None] | None = None
        self._take_back: Callable[[], bool] | None = None

    def arm(self, read: Callable[[float | None], None], take_back: Callable[[], bool]) -> None:
        """The request is on its way: how to wait for it, and how to take it back."""
        self._read, self._take_back = read, take_back

    def result(self, timeout: float | None = None) -> Outputs:
        """See :meth:`concurrent.futures.Future.result`."""
        if self._read is not None and not self.done():
            began = time.monotonic()
            self._read(timeout)
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - began))
        return super().result(timeout)

    def cancel(self) -> bool:
        """Takes the request back, even while it runs; False when it was answered before."""
        if not super().cancel():
            return False
        if self._take_back is not None:
            self._take_back()
        return True
