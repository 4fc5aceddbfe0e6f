"""Looks whether a result can arrive where it is to go, before anything is computed or travels.

Only what Globus says clearly counts: a collection or a login that is away, and a Globus that is slow, are no reason to
refuse. Whether somebody may *write* at a place only shows when a task tries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing

from hpcserve.core.delivery import End
from hpcserve.core.destinations import destination, unfit
from hpcserve.core.spelling import shortened
from hpcserve.daemon.controller.outside import Outside
from hpcserve.errors import HpcserveError, InvalidInput
from hpcserve.staging.transfer import Carrier, StepFailed

LOOK_S = 5.0
"""So long is waited for what Transfer says of a place. What gives tokens has limits of its own."""
GOOD_S = 60.0
"""A place that was good is not looked at again for so long."""
MOST_PLACES = 10_000


class Arrivals:
    """The places to which results are to go.

    Args:
        token: Gives the owner's token for Transfer.
        outside: What asks Globus.
        carrier: Makes, of a token, what speaks to Globus.
    """

    def __init__(
        self, token: Callable[[str], Awaitable[str]], outside: Outside, carrier: Callable[[str], Carrier]
    ) -> None:
        self._token = token
        self._outside = outside
        self._carrier = carrier
        self._good: dict[tuple[str, End], float] = {}

    async def check(self, owner: str, to: str) -> None:
        """Whether a file of an owner's may come there.

        Raises:
            InvalidInput: It cannot; what to do is said.
        """
        end, now = destination(to, ""), time.monotonic()
        if self._good.get((owner, end), now - GOOD_S) > now - GOOD_S:
            return
        try:
            # Not cut off: a login that is granted meanwhile is kept, or nobody ever revokes it.
            token = await self._token(owner)
            async with asyncio.timeout(LOOK_S):
                found = await self._outside.do(self._found, token, end)
        except StepFailed as error:
            if error.trouble.kind == "fatal":
                raise InvalidInput(f"to={shortened(to)}: no result can come there: {error.trouble.why}") from error
            return
        except (HpcserveError, TimeoutError):  # nobody is in, or Globus is away: that is seen to when it travels
            return
        why = unfit(to, found)
        if why:
            raise InvalidInput(why)
        if len(self._good) >= MOST_PLACES:
            self._good.clear()
        self._good[owner, end] = now

    def _found(self, token: str, end: End) -> str:
        with closing(self._carrier(token)) as carrier:
            return carrier.found(end)
