"""The future of a call that an :class:`hpcserve.AsyncClient` has submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from hpcserve.client.outputs import Outputs
from hpcserve.errors import InvalidInput

if TYPE_CHECKING:
    from hpcserve.client.sending import Transfer

    GoOn = Callable[[Callable[[Transfer], None]], Awaitable[Outputs]]


class AsyncInferenceFuture(asyncio.Future[Outputs]):
    """As :class:`hpcserve.client.future.InferenceFuture`, for asyncio.

    Attributes:
        transfer: Of a result that is brought to a collection: how far that is. None: it has not begun.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.transfer: Transfer | None = None
        self._go_on: GoOn | None = None

    def arm(self, go_on: GoOn) -> None:
        """The request is on its way: how to go on after a login."""
        self._go_on = go_on

    async def go_on(self, seen: Callable[[Transfer], None] = lambda _: None) -> Outputs:
        """See :meth:`hpcserve.client.future.InferenceFuture.go_on`. ``seen`` is called by another thread."""
        if self._go_on is None:
            raise InvalidInput("nothing was asked for yet: there is nothing to go on with")
        return await self._go_on(seen)
