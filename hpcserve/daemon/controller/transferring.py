"""The calls about transfers: to ask for one, to look at them, to cancel one. Each caller has to do with its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from hpcserve.auth.globus import read_secret
from hpcserve.auth.grants import Grants
from hpcserve.auth.sealed import Seal
from hpcserve.config import Site
from hpcserve.core.access import Decision
from hpcserve.core.delivery import Delivery, End, Limits, Trouble
from hpcserve.core.demands import together
from hpcserve.core.destinations import destination, is_uuid, uri_of
from hpcserve.core.sitepaths import Collection, globus_uri
from hpcserve.core.spelling import printable, shortened
from hpcserve.core.tiers import tier
from hpcserve.daemon.access import own_directory
from hpcserve.daemon.controller.arrivals import Arrivals
from hpcserve.daemon.controller.deliveries import Deliveries
from hpcserve.daemon.controller.doors import Doors
from hpcserve.daemon.controller.guard import Asking, Guard
from hpcserve.daemon.controller.outside import Outside
from hpcserve.daemon.controller.storage import Storage
from hpcserve.daemon.controller.wallet import Wallet
from hpcserve.daemon.registration import rules_of, secret_file
from hpcserve.errors import (
    Conflict,
    InvalidInput,
    LoginRequired,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
    StagedFileGone,
)
from hpcserve.staging.transfer import GlobusCollections, GlobusTransfer, StepFailed
from hpcserve.wire import admin as verbs

MOST_PATHS = 1000
MOST_CHARACTERS = 1000
OWN = Decision(allowed=True, by="owner")
SEAL_KEY = "logins.key"


class Service(NamedTuple):
    """What does the work."""

    deliveries: Deliveries
    wallet: Wallet
    doors: Doors
    outside: Outside
    arrivals: Arrivals


class Transferring:
    """Answers the calls.

    Args:
        site: Its collections, and where staged results are.
        guard: Who is an administrator; it writes down what was decided.
        service: What does the work; None: this service does no transfers.
    """

    def __init__(self, site: Site, guard: Guard, service: Service | None) -> None:
        self._guard = guard
        self._directory = site.staging_dir
        self._collections = collections_of(site)
        self._https_limit = site.staging.https_limit_bytes
        self._limits = limits_of(site)
        self._service = service

    async def open(self) -> None:
        """Takes up what was asked for before.

        Raises:
            HpcserveError: The store cannot be read.
        """
        if self._service is not None:
            await self._service.wallet.open()
            await self._service.deliveries.open(self._service.wallet.seen)

    async def run(self) -> None:
        """Works until it is cancelled."""
        if self._service is None:
            await asyncio.Event().wait()
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._service.deliveries.run())
            tasks.create_task(self._service.doors.tidy(self._service.deliveries.is_idle))

    def holds(self, owner: str, name: str) -> bool:
        """Whether a staged file is still to be delivered, and must stay."""
        return self._service is not None and self._service.deliveries.book.holds(owner, name)

    async def deliver(self, arguments: verbs.Deliver, asking: Asking) -> verbs.TransferList:
        """Staged results of the caller's are to go to a collection."""
        service, owner = self._seen(asking)
        if not 1 <= len(arguments.paths) <= MOST_PATHS:
            raise InvalidInput(f"paths has {len(arguments.paths)} entries; expected from 1 to {MOST_PATHS}")
        if len(arguments.paths) > 1 and not arguments.to.endswith("/"):
            raise InvalidInput(
                f"to={shortened(arguments.to)}: several files go to a directory; let it end with a slash"
            )
        wanted = []
        for path in arguments.paths:
            found = await self._own(asking, "deliver", owner, path)
            wanted.append(self._delivery(service, owner, path, arguments.to, found.st_size))
        try:
            await service.arrivals.check(owner, arguments.to)
        except InvalidInput as error:
            raise InvalidInput(
                f"{error.message}; as long as it is kept, the result is in {path} on the site"
            ) from error
        for each in wanted:
            await self._guard.note(asking, "deliver", f"{each.name} to {uri_of(each.target)}", OWN)
        if arguments.keep_login:
            await service.wallet.may_keep(owner)
        await service.deliveries.ask(wanted)
        return self._listed(service.deliveries, [each.id for each in wanted])

    async def destination(self, arguments: verbs.AskDestination, asking: Asking) -> verbs.Destination:
        """Whether a result of the caller's can come to a place, as far as can be seen."""
        service, owner = self._seen(asking)
        await service.arrivals.check(owner, arguments.to)
        return verbs.Destination()

    async def transfers(self, arguments: verbs.AskTransfers, asking: Asking) -> verbs.TransferList:
        """Those of the caller, or of everybody."""
        service, owner = self._seen(asking)
        everybody = arguments.everybody
        if everybody and not self._guard.administers(asking):
            raise PermissionDenied("only administrators see everybody's transfers; leave that away to see yours")
        shown = [each.id for each in service.deliveries.book.deliveries(None if everybody else owner)]
        if arguments.ids:
            unknown = [each for each in arguments.ids if each not in shown]
            if unknown:
                raise NotFound(f"no transfer {shortened(unknown[0])}; see: hpcserve transfers")
            shown = list(arguments.ids)
        return self._listed(service.deliveries, shown)

    async def cancel(self, arguments: verbs.CancelTransfer, asking: Asking) -> verbs.TransferList:
        """One is not wanted any more."""
        service, owner = self._seen(asking)
        found = service.deliveries.book.get(arguments.id)
        if found is None or (found.owner != owner and not self._guard.administers(asking)):
            raise NotFound(f"no transfer {shortened(arguments.id)}; see: hpcserve transfers")
        await self._guard.note(asking, "cancel-transfer", found.id, OWN)
        await service.deliveries.cancel(found.id)
        return self._listed(service.deliveries, [found.id])

    async def submission(self, arguments: verbs.AskSubmission, asking: Asking) -> verbs.Submission:
        """One is to be submitted by the caller himself."""
        service, delivery = await self._own_transfer(asking, arguments.id)
        try:
            order, login = await service.deliveries.hand_out(delivery.id)
        except StepFailed as error:
            raise ServiceUnavailable(error.trouble.why, retry_after_s=error.trouble.retry_after_s or 2.0) from error
        await self._guard.note(asking, "submit", delivery.id, OWN)
        source, target = delivery.source.collection, delivery.target.collection
        return verbs.Submission(
            submission=order.submission,
            source=source,
            target=target,
            items=tuple((each.source.path, each.target.path) for each in order.deliveries),
            deadline_s=self._limits.deadline_s,
            within_s=self._limits.hand_s / 2,
            login=login,
            why=delivery.why,
            consents=(source,) if self._is_mapped(source) else (),
        )

    async def submitted(self, arguments: verbs.Submitted, asking: Asking) -> verbs.TransferList:
        """The caller has submitted one."""
        service, delivery = await self._own_transfer(asking, arguments.id)
        if not is_uuid(arguments.task):
            raise InvalidInput(f"task={shortened(arguments.task)}: expected the id of a task of Globus Transfer")
        try:
            await service.deliveries.reported(delivery.id, arguments.submission, arguments.task)
        except PermissionDenied as error:
            decision = Decision(allowed=False, by="owner", reason=error.message)
            await self._guard.note(asking, "submit", delivery.id, decision)
            raise
        except StepFailed as error:
            raise ServiceUnavailable(error.trouble.why, retry_after_s=error.trouble.retry_after_s or 2.0) from error
        return self._listed(service.deliveries, [delivery.id])

    async def not_submitted(self, arguments: verbs.NotSubmitted, asking: Asking) -> verbs.TransferList:
        """Globus has refused one to the caller, too."""
        service, delivery = await self._own_transfer(asking, arguments.id)
        why = f"{printable(arguments.why[:MOST_CHARACTERS])}; it was refused to its owner, too"
        trouble = Trouble("stale" if arguments.stale else "fatal", why)
        await service.deliveries.not_submitted(delivery.id, arguments.submission, trouble)
        return self._listed(service.deliveries, [delivery.id])

    async def _own_transfer(self, asking: Asking, id: str) -> tuple[Service, Delivery]:
        """One of the caller's; what is another's, also an administrator's to see, is written down."""
        service, owner = self._seen(asking)
        found = service.deliveries.book.get(id)
        if found is None or found.owner != owner:
            reason = "no such transfer of the caller's"
            await self._guard.note(asking, "submit", id, Decision(allowed=False, by="owner", reason=reason))
            raise NotFound(f"no transfer {shortened(id)}; see: hpcserve transfers")
        return service, found

    async def https(self, arguments: verbs.AskHttps, asking: Asking) -> verbs.ByHttps:
        """Where a staged result of the caller's can be fetched, and with which token of the caller's."""
        service, owner = self._seen(asking)
        if not arguments.path:
            return await self._consents(service, owner)
        size = (await self._own(asking, "fetch", owner, arguments.path)).st_size
        source = globus_uri(arguments.path, [each for each in self._collections if each.https])
        way = tier(size, visible=False, https=source is not None, https_limit_bytes=self._https_limit)
        if way != "https" or source is None:
            raise Conflict(
                f"{arguments.path} cannot be fetched by HTTPS: it is on no collection that has that, or larger than "
                f"staging.https_limit_bytes ({self._https_limit}); have it brought to a collection"
            )
        end = destination(source, "")
        try:
            grant = await service.wallet.https(owner, end.collection, data_access=self._is_mapped(end.collection))
        except LoginRequired as error:
            raise together(await self._missing(service, owner, [end.collection]) or [error]) from error
        by = asking.asker.session
        service.doors.fetching(owner, arguments.path, by)
        try:
            server = await self._let_in(service, owner, end.collection)
            await self._guard.note(asking, "fetch", arguments.path, OWN)
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
        missing = await self._missing(service, owner, [each.id for each in self._collections if each.https])
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
                await service.wallet.https(owner, each, data_access=self._is_mapped(each))
            except LoginRequired as error:
                missing.append(error)
        return missing

    def _is_mapped(self, collection: str) -> bool:
        return any(each.id == collection and each.kind == "mapped" for each in self._collections)

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

    async def fetched(self, owner: str, paths: Sequence[str]) -> None:
        """A caller has results: an access rule that was made for that may not be needed any more."""
        if self._service is not None:
            await self._service.doors.fetched(owner, paths, partial(self._service.deliveries.is_idle, owner))

    def _seen(self, asking: Asking) -> tuple[Service, str]:
        """The caller's own directory. Whoever comes with a new token lets go on what waits for that."""
        if self._service is None:
            raise Conflict("this service transfers nothing: its site file has auth = 'keys', or no staging.collections")
        identity = asking.asker.identity
        owner = own_directory(identity)
        if self._service.wallet.seen(owner, identity.token_sha256):
            self._service.deliveries.logged_in(owner)
        return self._service, owner

    async def _own(self, asking: Asking, action: str, owner: str, path: str) -> os.stat_result:
        """As :meth:`_stat`; what is another's is written down."""
        try:
            return await self._stat(owner, path)
        except PermissionDenied as error:
            decision = Decision(allowed=False, by="owner", reason=error.message)
            await self._guard.note(asking, action, path, decision)
            raise

    async def _stat(self, owner: str, path: str) -> os.stat_result:
        """Whether a path is that of a file of the caller's."""
        above, _, name = path.rpartition("/")
        if above != f"{self._directory}/{owner}" or not name or name.startswith("."):
            raise PermissionDenied(f"{shortened(path)} is no staged result of yours")
        try:
            found = await asyncio.to_thread(os.lstat, path)
        except FileNotFoundError as error:
            raise StagedFileGone(f"{path} is gone: staged results are kept for a time; call again") from error
        if not stat.S_ISREG(found.st_mode):
            raise PermissionDenied(f"{path} is no file")
        return found

    def _delivery(self, service: Service, owner: str, path: str, to: str, size_bytes: int) -> Delivery:
        """One file of the caller's, and where it goes."""
        name = path.rpartition("/")[2]
        source = globus_uri(path, self._collections)
        if source is None:
            raise Conflict(
                f"{self._directory} is on none of the site's staging.collections; fetch the result otherwise"
            )
        target = destination(to, name)
        return Delivery(
            delivery_id(owner, name, target),
            owner,
            name,
            destination(source, ""),
            target,
            size_bytes,
            service.deliveries.now(),
        )

    def _listed(self, deliveries: Deliveries, ids: Sequence[str]) -> verbs.TransferList:
        return verbs.TransferList(transfers=tuple(self._view(deliveries, each) for each in ids))

    def _view(self, deliveries: Deliveries, id: str) -> verbs.TransferView:
        delivery = deliveries.book.get(id)
        assert delivery is not None, "listed a moment ago"
        progress, in_all, files = deliveries.book.progress(id)
        return verbs.TransferView(
            id=id,
            owner=delivery.owner,
            path=f"{self._directory}/{delivery.owner}/{delivery.name}",
            to=uri_of(delivery.target),
            state=delivery.state,
            size_bytes=delivery.size_bytes,
            asked_s=delivery.asked_s,
            ended_s=delivery.ended_s,
            why=delivery.why,
            login=deliveries.book.login(id),
            task=delivery.task,
            task_bytes=0 if progress is None else progress.size_bytes,
            task_bytes_in_all=in_all,
            task_files=0 if progress is None else progress.files,
            task_files_in_all=files,
            bytes_per_s=0.0 if progress is None else progress.bytes_per_s,
            until_s=deliveries.book.until(id),
        )


def delivery_id(owner: str, name: str, target: End) -> str:
    """The id of a delivery: of the same file to the same place always the same, so that asking again is harmless."""
    words = "\0".join((owner, name, *target))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def collections_of(site: Site) -> list[Collection]:
    """The collections of a site."""
    return [Collection(each.id, each.prefix, each.kind, each.https) for each in site.staging.collections]


def transferring_of(
    site: Site,
    guard: Guard,
    storage: Storage,
    ask: Callable[[str], Awaitable[str]],
    delivered: Callable[[str, str], Awaitable[object]],
) -> Transferring:
    """What a site's service does about transfers: nothing, unless it is at Globus and has collections.

    Args:
        site: The site.
        guard: Who may do what.
        storage: The store.
        ask: Gives the token of a SHA-256 by which somebody is in; empty: nobody is.
        delivered: Told of each file that has arrived, by its owner and name.

    Raises:
        ConfigError: The secret of the service cannot be read, or the Globus SDK is not installed.
    """
    if site.auth != "globus" or not site.staging.collections:
        return Transferring(site, guard, None)
    mapped = [each.id for each in site.staging.collections if each.kind == "mapped"]
    grants = Grants(rules_of(site), read_secret(secret_file(site)), mapped)
    outside = Outside()
    wallet = Wallet(grants, Seal(site.state_dir / SEAL_KEY), storage, ask, outside)
    doors = Doors(site.staging_dir, collections_of(site), grants.own, outside)

    def carrier(token: str) -> GlobusTransfer:
        return GlobusTransfer(token, deadline_s=site.staging.transfer_deadline_s)

    deliveries = Deliveries(
        limits_of(site),
        storage,
        wallet,
        doors,
        outside,
        carrier=carrier,
        delivered=lambda each: delivered(each.owner, each.name),
    )
    arrivals = Arrivals(wallet.token, outside, carrier)
    return Transferring(site, guard, Service(deliveries, wallet, doors, outside, arrivals))


def _https_server(token: str, collection: str) -> str:
    with closing(GlobusCollections(token)) as speaker:
        return speaker.https_server(collection)


def limits_of(site: Site) -> Limits:
    """What the site sets."""
    said = site.staging
    return Limits(
        tasks_per_owner=said.transfers_per_user,
        batch_files=said.transfer_files,
        batch_bytes=said.transfer_bytes,
        batch_wait_s=said.transfer_wait_s,
        faults_s=said.transfer_faults_s,
        give_up_s=said.keep_undelivered_s,
        deadline_s=said.transfer_deadline_s,
    )
