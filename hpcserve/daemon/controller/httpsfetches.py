"""The call for a result by HTTPS: where it is had, and with which token of the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from urllib.parse import quote

from hpcserve.core.demands import together
from hpcserve.core.destinations import destination
from hpcserve.core.sitepaths import globus_uri
from hpcserve.core.tiers import tier
from hpcserve.daemon.controller.guard import OWN, Asking
from hpcserve.daemon.controller.transferdesk import Desk, Service
from hpcserve.errors import Conflict, LoginRequired, ServiceUnavailable
from hpcserve.staging.transfer import GlobusCollections, StepFailed
from hpcserve.wire import admin as verbs


class HttpsFetches:
    """Answers the call.

    Args:
        desk: Knows the callers.
        limit_bytes: Results up to this size are had so.
    """

    def __init__(self, desk: Desk, limit_bytes: int) -> None:
        self._desk = desk
        self._https_limit = limit_bytes

    async def https(self, arguments: verbs.AskHttps, asking: Asking) -> verbs.ByHttps:
        """Where a staged result of the caller's can be fetched, and with which token of the caller's."""
        service, owner = self._desk.seen(asking)
        if not arguments.path:
            return await self._consents(service, owner)
        size = (await self._desk.own(asking, "fetch", owner, arguments.path)).st_size
        source = globus_uri(arguments.path, [each for each in self._desk.collections if each.https])
        way = tier(size, visible=False, https=source is not None, https_limit_bytes=self._https_limit)
        if way != "https" or source is None:
            raise Conflict(
                f"{arguments.path} cannot be fetched by HTTPS: it is on no collection that has that, or larger than "
                f"staging.https_limit_bytes ({self._https_limit}); have it brought to a collection"
            )
        end = destination(source, "")
        try:
            grant = await service.wallet.https(owner, end.collection, data_access=self._desk.is_mapped(end.collection))
        except LoginRequired as error:
            raise together(await self._missing(service, owner, [end.collection]) or [error]) from error
        by = asking.asker.session
        service.doors.fetching(owner, arguments.path, by)
        try:
            server = await self._let_in(service, owner, end.collection)
            await self._desk.guard.note(asking, "fetch", arguments.path, OWN)
        except BaseException:
            service.doors.gave_up(owner, arguments.path, by)
            raise
        url = f"{server.rstrip('/')}{quote(end.path)}"
        return verbs.ByHttps(url=url, token=grant.access_token, expires_in_s=grant.expires_in_s)

    async def _let_in(self, service: Service, owner: str, collection: str) -> str:
        """Has an owner's files on a collection be his to read; where they are had by HTTPS."""
        try:
            await service.doors.let_in(owner, collection)
        except StepFailed as error:
            raise ServiceUnavailable(error.trouble.why, retry_after_s=error.trouble.retry_after_s or 2.0) from error
        server = await self._https_server(service, owner, collection)
        if not server:
            raise Conflict(f"collection {collection} has no HTTPS; take https = true out of the site file")
        return server

    async def _consents(self, service: Service, owner: str) -> verbs.ByHttps:
        """Whether the login of a caller's does to bring results: if not, the error says which one would."""
        missing = await self._missing(service, owner, [each.id for each in self._desk.collections if each.https])
        if missing:
            raise together(missing)
        return verbs.ByHttps(url="", token="", expires_in_s=0.0)

    async def _missing(self, service: Service, owner: str, collections: Sequence[str]) -> list[LoginRequired]:
        """What logins are missing, to transfer and to fetch files of these collections: a person is asked once."""
        missing = []
        try:
            await service.wallet.token(owner)
        except LoginRequired as error:
            missing.append(error)
        for each in collections:
            try:
                await service.wallet.https(owner, each, data_access=self._desk.is_mapped(each))
            except LoginRequired as error:
                missing.append(error)
        return missing

    async def _https_server(self, service: Service, owner: str, collection: str) -> str:
        """Where a collection's files are had. A token that is kept may have ended: then there is another one."""
        for is_last in (False, True):
            token = await service.wallet.token(owner)
            try:
                return await service.outside.do(_https_server, token, collection)
            except StepFailed as error:
                trouble = error.trouble
                if trouble.kind == "fatal":
                    raise Conflict(f"{trouble.why}; the result cannot be fetched by HTTPS") from error
                if trouble.kind != "login":
                    raise ServiceUnavailable(trouble.why, retry_after_s=trouble.retry_after_s or 2.0) from error
                trouble = service.wallet.refused(owner, trouble)
                if is_last:
                    raise LoginRequired(trouble.why, detail=trouble.detail) from error
        raise AssertionError("the last one returns or raises")


def _https_server(token: str, collection: str) -> str:
    with closing(GlobusCollections(token)) as speaker:
        return speaker.https_server(collection)
