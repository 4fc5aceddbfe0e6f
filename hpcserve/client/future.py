"""The future of a submitted call, whose waiter reads the socket itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from hpcserve.client.arguments import FOREVER
from hpcserve.client.outputs import Outputs
from hpcserve.errors import InvalidInput

if TYPE_CHECKING:
    from hpcserve.client.call import Inference
    from hpcserve.client.sending import Transfer


LOOK_S = 1.0


class InferenceFuture(Future[Outputs]):
    """A future whose waiter reads the socket itself. ``cancel()`` takes the request back, running or not.

    Attributes:
        transfer: Of a result that is brought to a collection: how far that is. None: it has not begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transfer: Transfer | None = None
        self._call: Inference | None = None
        self._read: Callable[[float | None], None] | None = None
        self._take_back: Callable[[], bool] | None = None

    def arm(
        self, read: Callable[[float | None], None], take_back: Callable[[], bool], call: Inference | None = None
    ) -> None:
        """The request is on its way: how to wait for it, how to take it back, and what it is."""
        self._read, self._take_back, self._call = read, take_back, call

    @property
    def can_go_on(self) -> bool:
        """Whether ``result()`` has raised something for a result that was computed, and can still be brought."""
        return self._call is not None and self._call.unfetched is not None

    def go_on(self, seen: Callable[[Transfer], None] = lambda _: None) -> Outputs:
        """Where ``result()`` has raised something for a result that was computed, LoginRequired for one: brings it.

        Args:
            seen: Called with each look at the transfer.

        Raises:
            HpcserveError: As ``result()``.
        """
        if self._call is None:
            raise InvalidInput("nothing was asked for yet: there is nothing to go on with")
        return self._call.go_on(seen)

    def result(self, timeout: float | None = None) -> Outputs:
        """See :meth:`concurrent.futures.Future.result`."""
        until = FOREVER if timeout is None else time.monotonic() + timeout
        if self._read is not None and not self.done():
            self._read(timeout)
        while not self.done() and (left := until - time.monotonic()) > 0:
            # Python looks for a Ctrl-C before it begins to wait: one that comes just then is heard after this time.
            with contextlib.suppress(TimeoutError):
                return super().result(min(left, LOOK_S))
        return super().result(0)

    def cancel(self) -> bool:
        """Takes the request back, even while it runs; False when it was answered before."""
        if not super().cancel():
            return False
        if self._take_back is not None:
            self._take_back()
        return True
