"""Access rules on the service's guest collections: each caller may read its own staged results while some travel.

A rule names the caller's own directory and nothing above it. It is there from before a transfer is submitted, or a
result is fetched by HTTPS, until the last of its owner's has ended. At Globus an owner's directory has the name of his
identity.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from hpcserve.auth.grants import Grant
from hpcserve.core.delivery import Trouble
from hpcserve.core.destinations import destination
from hpcserve.core.fetches import Fetches
from hpcserve.core.sitepaths import Collection, globus_uri
from hpcserve.daemon.controller.outside import Outside
from hpcserve.errors import HpcserveError
from hpcserve.staging.transfer import GlobusRules, StepFailed

_log = logging.getLogger(__name__)

EARLY_S = 60.0
LOOKED_S = 60.0
"""So often is looked for fetches of which nothing was heard any more."""


class Doors:
    """The rules of all owners.

    Args:
        directory: Where staged results are.
        collections: The site's.
        grant: A token of the service's own, for Transfer.
        outside: What asks Globus.
        rules: Makes, of a token, what changes rules.
    """

    def __init__(
        self,
        directory: str,
        collections: Sequence[Collection],
        grant: Callable[[], Grant],
        outside: Outside,
        rules: Callable[[str], GlobusRules] = GlobusRules,
    ) -> None:
        self._directory = directory
        self._guests = [each for each in collections if each.kind == "guest"]
        self._grant = grant
        self._outside = outside
        self._rules = rules
        self._token, self._until = "", 0.0
        self._open: dict[str, set[str]] = {}
        self._fetches = Fetches()
        self._of_owner: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._of_token = asyncio.Lock()

    async def let_in(self, owner: str, collection: str) -> bool:
        """Where the collection is a guest collection of the service, the owner can read its own directory there.

        Returns:
            Whether that is so by a rule.

        Raises:
            HpcserveError: The service has no token.
            StepFailed: Globus does not take the rule. No login of the owner's mends that.
        """
        place = self._place(owner, collection)
        if not place:
            return False
        async with self._of_owner[owner]:
            if collection not in self._open.get(owner, ()):
                await self._ask(partial(GlobusRules.add, collection=collection, path=place, identity=owner))
                self._open.setdefault(owner, set()).add(collection)
        return True

    async def let_out(self, owner: str, is_idle: Callable[[], bool]) -> None:
        """The owner's rules are taken back, unless something new is under way by now, or being fetched.

        One that cannot be taken back is told of; it lets nobody see more than his own.
        """
        async with self._of_owner[owner]:
            if is_idle() and not self._fetches.is_open(owner, time.monotonic()):
                await self._take_back(owner)

    def fetching(self, owner: str, path: str, by: bytes) -> None:
        """The owner is about to fetch a result, by this session."""
        self._fetches.begin(owner, path, time.monotonic(), by)

    def gave_up(self, owner: str, path: str, by: bytes) -> None:
        """That session was not told where: it does not fetch. A rule that was made for it goes with the next look."""
        self._fetches.give_up(owner, path, by)

    async def fetched(self, owner: str, paths: Sequence[str], is_idle: Callable[[], bool]) -> None:
        """The owner has these: where they were the last, a rule that was made for that is taken back."""
        for path in paths:
            self._fetches.end(owner, path)
        if owner in self._open:
            await self.let_out(owner, is_idle)

    async def tidy(self, is_idle: Callable[[str], bool]) -> None:
        """Takes back the rules of those who never told that they have what they fetched; until it is cancelled."""
        while True:
            for owner in self._fetches.over(time.monotonic()):
                await self.let_out(owner, partial(is_idle, owner))
            await asyncio.sleep(LOOKED_S)

    async def _take_back(self, owner: str) -> None:
        self._open.pop(owner, None)
        for each in self._guests:
            place = self._place(owner, each.id)
            if not place:
                continue
            try:
                await self._ask(partial(GlobusRules.remove, collection=each.id, path=place, identity=owner))
            except (HpcserveError, StepFailed) as error:
                _log.warning("the access rule for %s on %s is not removed: %s", place, each.id, error)

    def _place(self, owner: str, collection: str) -> str:
        """The owner's directory on a guest collection; empty: no rule is needed, or none can be made."""
        own = [each for each in self._guests if each.id == collection]
        uri = globus_uri(f"{self._directory}/{owner}", own)
        return destination(uri, "").path if uri else ""

    async def _ask(self, do: Callable[[GlobusRules], object]) -> None:
        """Once more with another token, if the service's has ended before its time."""
        try:
            return await self._outside.do(self._said, await self._own_token(), do)
        except StepFailed as error:
            if error.trouble.kind != "login":
                raise
        try:
            return await self._outside.do(self._said, await self._own_token(anew=True), do)
        except StepFailed as error:
            if error.trouble.kind != "login":
                raise
            why = f"the service may not set access rules; the operator should see to that ({error.trouble.why})"
            raise StepFailed(Trouble("again", why)) from error

    def _said(self, token: str, do: Callable[[GlobusRules], object]) -> None:
        with closing(self._rules(token)) as rules:
            do(rules)

    async def _own_token(self, *, anew: bool = False) -> str:
        async with self._of_token:
            if anew or not self._token or self._until <= time.monotonic():
                grant = await self._outside.do(self._grant)
                self._token, self._until = grant.access_token, time.monotonic() + grant.expires_in_s - EARLY_S
            return self._token
