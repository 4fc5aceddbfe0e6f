"""Tokens for Transfer of those whose results are delivered: in memory, and with their consent a login that lasts.

A token is got when one is needed: by the login that is kept, or by the token with which its owner is in. A kept login
is a refresh token in the store, encrypted; when nothing of its owner's is to be delivered any more, it is revoked and
removed. An owner has one at most. One with which Transfer wants another login is revoked when that has come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hpcserve.auth.grants import Grant, Grants
from hpcserve.auth.sealed import Seal
from hpcserve.core.delivery import Trouble
from hpcserve.core.demands import TRANSFER_SCOPE
from hpcserve.daemon.controller.outside import Outside
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import AuthenticationError, HpcserveError, LoginRequired, ServiceUnavailable
from hpcserve.registry.deliveries import KeptLogin, forget_login, keep_login, kept_logins

_log = logging.getLogger(__name__)

MOST_DIGESTS = 8
"""So many logins of one owner are remembered, the last ones."""
EARLY_S = 60.0
"""A token that ends so soon is not used any more."""
RENEWED_S = 15.0
"""A client whose token has ended has come with the next one by then."""


@dataclass
class _Purse:
    digests: list[str] = field(default_factory=list)
    offline: bool = False
    token: str = ""
    until: float = 0.0
    kept: str = ""
    outdone_by: str = ""  # what is kept does not do; a login does that is newer than this one
    in_at: float = float("-inf")
    refused: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Wallet:
    """The tokens of all owners.

    Args:
        grants: Who gets them.
        seal: What encrypts those that are kept.
        storage: Where they are kept.
        ask: What gives the token of a digest; empty: nobody is in by it.
        outside: What asks Globus Auth.
    """

    def __init__(
        self, grants: Grants, seal: Seal, storage: Storage, ask: Callable[[str], Awaitable[str]], outside: Outside
    ) -> None:
        self._grants = grants
        self._outside = outside
        self._seal = seal
        self._storage = storage
        self._ask = ask
        self._purses: dict[str, _Purse] = {}

    async def open(self) -> None:
        """Takes up what is kept, and who agreed to that."""
        for row in await self._storage.do(kept_logins):
            self._purses[row.owner] = _Purse(kept=row.sealed, offline=True)

    def keepers(self) -> list[str]:
        """Those of whom a login is kept, or will be."""
        return [owner for owner, purse in self._purses.items() if purse.offline or purse.kept]

    def seen(self, owner: str, digest: str) -> bool:
        """An owner is in by this token; whether that is a new one."""
        purse = self._purses.setdefault(owner, _Purse())
        new = bool(digest) and digest not in purse.digests
        if new:  # one of several programs that take turns has not come with another login each time
            purse.digests = [*purse.digests[1 - MOST_DIGESTS :], digest]
            purse.token, purse.until = "", 0.0
        return new

    def digest(self, owner: str) -> str:
        """The SHA-256 of the token by which an owner was in last."""
        return next(reversed(self._purses.get(owner, _Purse()).digests), "")

    async def may_keep(self, owner: str) -> None:
        """The owner agrees that the login is kept until everything is delivered. That is written down.

        Raises:
            HpcserveError: It cannot be written down.
        """
        purse = self._purses.setdefault(owner, _Purse())
        async with purse.lock:
            if not purse.offline and not purse.kept:
                await self._storage.do(keep_login, KeptLogin(owner=owner, sealed=""))
                purse.token, purse.until = "", 0.0
            purse.offline = True

    def refused(self, owner: str, trouble: Trouble) -> Trouble:
        """Transfer wants another login of this owner's; returns which one that means at this service."""
        purse = self._purses.get(owner)
        if purse is not None:
            purse.token = ""
            if purse.kept and trouble.detail is not None:
                purse.outdone_by = self.digest(owner)
        wanted = dict((trouble.detail or {}).get("authorization_parameters", {}))
        scopes = wanted.pop("required_scopes", None) or [TRANSFER_SCOPE]
        wanted.pop("session_message", None)
        detail = self._grants.login_required(trouble.why, scopes, **wanted).detail
        return trouble._replace(detail=detail)

    async def token(self, owner: str) -> str:
        """An access token for Transfer.

        Raises:
            LoginRequired: There is none, until its owner logs in.
            ServiceUnavailable: There may be one later.
        """
        purse = self._purses.setdefault(owner, _Purse())
        async with purse.lock:
            if not purse.token or purse.until <= time.monotonic():
                grant = await self._grant(owner, purse)
                purse.token, purse.until = grant.access_token, time.monotonic() + grant.expires_in_s - EARLY_S
                if grant.refresh_token:
                    await self._keep(owner, purse, grant.refresh_token)
            return purse.token

    async def https(self, owner: str, collection: str, *, data_access: bool) -> Grant:
        """A token for the files of a collection by HTTPS, which its owner may have.

        Raises:
            LoginRequired: There is none, until its owner logs in.
            ServiceUnavailable: There may be one later.
        """
        purse = self._purses.setdefault(owner, _Purse())
        known = await self._known(purse)
        if not known:
            raise self._grants.login_required("your login is not known any more", [])
        try:
            return await self._outside.do(self._grants.https, known, collection, data_access=data_access)
        except LoginRequired:
            raise
        except AuthenticationError as error:
            if purse.refused == known:
                raise self._grants.https_consent_required(collection, data_access=data_access) from error
            purse.refused = known
            raise ServiceUnavailable("the login is being renewed", retry_after_s=1.0) from error

    async def _grant(self, owner: str, purse: _Purse) -> Grant:
        known = await self._known(purse)
        if known and purse.outdone_by and purse.outdone_by != self.digest(owner):
            # Revoked first: at the stand-in that ends all tokens of this user's for this service, newer ones too.
            await self._revoke(owner, await self._opened(owner, purse))
            await self._forget(owner, purse)
        if known and not purse.kept:
            return await self._dependent(purse, known)
        if purse.kept:
            refresh_token = await self._opened(owner, purse)
            try:
                if refresh_token:
                    return await self._outside.do(self._grants.refreshed, refresh_token)
            except LoginRequired:
                await self._forget(owner, purse)
                if not known:
                    raise
        if known:
            return await self._dependent(purse, known)
        if time.monotonic() - purse.in_at < RENEWED_S:
            raise ServiceUnavailable("the login is being renewed", retry_after_s=1.0)
        raise self._grants.login_required("nobody is logged in on whose behalf files could be transferred", [])

    async def _dependent(self, purse: _Purse, known: str) -> Grant:
        """By a token that was good a moment ago. One that is refused may just have ended: it is tried once more."""
        try:
            return await self._outside.do(self._grants.dependent, known, offline=purse.offline)
        except LoginRequired:
            raise
        except AuthenticationError as error:
            if purse.refused == known:
                raise self._grants.consent_required() from error
            purse.refused = known
            raise ServiceUnavailable("the login is being renewed", retry_after_s=1.0) from error

    async def _known(self, purse: _Purse) -> str:
        """The newest token by which the owner still is in; empty: the owner is not."""
        for digest in reversed(purse.digests):
            token = await self._ask(digest)
            if token:
                purse.in_at = time.monotonic()
                return token
        return ""

    async def _keep(self, owner: str, purse: _Purse, refresh_token: str) -> None:
        try:
            purse.kept = await asyncio.to_thread(self._seal.sealed, refresh_token)
            await self._storage.do(keep_login, KeptLogin(owner=owner, sealed=purse.kept))
        except HpcserveError as error:
            _log.warning("the login of %s cannot be kept: %s", owner, error)

    async def _forget(self, owner: str, purse: _Purse) -> None:
        """What is kept does not do: another is, when there is one."""
        await self._storage.do(keep_login, KeptLogin(owner=owner, sealed=""))
        purse.kept = purse.outdone_by = ""

    async def done(self, owner: str, is_idle: Callable[[], bool]) -> None:
        """No login of this owner's is kept any more, if still nothing is to be delivered.

        Raises:
            HpcserveError: What is kept cannot be removed from the store; it is worthless.
        """
        purse = self._purses.get(owner)
        if purse is None:
            return
        async with purse.lock:
            if not is_idle() or not (purse.offline or purse.kept):
                return
            if purse.kept:
                await self._revoke(owner, await self._opened(owner, purse))
                purse.token = ""  # which ends with it
            await self._storage.do(forget_login, owner)
            purse.kept, purse.offline, purse.outdone_by = "", False, ""

    async def _opened(self, owner: str, purse: _Purse) -> str:
        try:
            return purse.kept and await asyncio.to_thread(self._seal.opened, purse.kept)
        except HpcserveError as error:
            _log.warning("the kept login of %s cannot be read: %s", owner, error)
            return ""

    async def _revoke(self, owner: str, refresh_token: str) -> None:
        try:
            if refresh_token:
                await self._outside.do(self._grants.revoke, refresh_token)
        except HpcserveError as error:
            _log.warning("a login of %s that was kept is removed, but not revoked: %s", owner, error)
