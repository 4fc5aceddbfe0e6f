"""The calls about transfers: to ask for one, to look at them, to cancel one. Each caller has to do with its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable, Sequence

from hpcserve.auth.globus import read_secret
from hpcserve.auth.grants import Grants
from hpcserve.auth.sealed import Seal
from hpcserve.config import Site
from hpcserve.core.destinations import destination, uri_of
from hpcserve.core.sitepaths import Collection, globus_uri
from hpcserve.core.spelling import shortened
from hpcserve.core.transfers import Delivery, End, Limits
from hpcserve.daemon.access import own_directory
from hpcserve.daemon.controller.deliveries import Deliveries
from hpcserve.daemon.controller.doors import Doors
from hpcserve.daemon.controller.guard import Asking
from hpcserve.daemon.controller.storage import Storage
from hpcserve.daemon.controller.wallet import Wallet
from hpcserve.daemon.registration import rules_of, secret_file
from hpcserve.errors import Conflict, InvalidInput, NotFound, PermissionDenied, StagedFileGone
from hpcserve.staging.transfer import GlobusTransfer
from hpcserve.wire import admin as verbs

MOST_PATHS = 1000
SEAL_KEY = "logins.key"


class Transferring:
    """Answers the calls.

    Args:
        site: Its collections, and where staged results are.
        deliveries: All of them; None: this service does no transfers.
        wallet: Who is told by which token each caller is in.

    Attributes:
        administers: Whether a caller is an administrator.
    """

    def __init__(self, site: Site, deliveries: Deliveries | None, wallet: Wallet | None) -> None:
        self.administers: Callable[[Asking], bool] = lambda _asking: False
        self._directory = site.staging_dir
        self._collections = collections_of(site)
        self._deliveries = deliveries
        self._wallet = wallet

    async def open(self) -> None:
        """Takes up what was asked for before.

        Raises:
            HpcserveError: The store cannot be read.
        """
        if self._deliveries is not None and self._wallet is not None:
            await self._wallet.open()
            await self._deliveries.open(self._wallet.seen)

    async def run(self) -> None:
        """Works until it is cancelled."""
        if self._deliveries is not None:
            await self._deliveries.run()
        await asyncio.Event().wait()

    def holds(self, owner: str, name: str) -> bool:
        """Whether a staged file is still to be delivered, and must stay."""
        return self._deliveries is not None and self._deliveries.book.holds(owner, name)

    async def deliver(self, arguments: verbs.Deliver, asking: Asking) -> verbs.TransferList:
        """Staged results of the caller's are to go to a collection."""
        deliveries, owner = self._seen(asking)
        if not 1 <= len(arguments.paths) <= MOST_PATHS:
            raise InvalidInput(f"paths has {len(arguments.paths)} entries; expected from 1 to {MOST_PATHS}")
        if len(arguments.paths) > 1 and not arguments.to.endswith("/"):
            raise InvalidInput(
                f"to={shortened(arguments.to)}: several files go to a directory; let it end with a slash"
            )
        wanted = [await self._delivery(owner, path, arguments.to) for path in arguments.paths]
        if arguments.keep_login and self._wallet is not None:
            self._wallet.may_keep(owner)
        await deliveries.ask(wanted)
        return self._listed(deliveries, [each.id for each in wanted])

    async def transfers(self, arguments: verbs.AskTransfers, asking: Asking) -> verbs.TransferList:
        """Those of the caller, or of everybody."""
        deliveries, owner = self._seen(asking)
        everybody = arguments.everybody
        if everybody and not self.administers(asking):
            raise PermissionDenied("only administrators see everybody's transfers; leave that away to see yours")
        shown = [each.id for each in deliveries.book.deliveries(None if everybody else owner)]
        if arguments.ids:
            unknown = [each for each in arguments.ids if each not in shown]
            if unknown:
                raise NotFound(f"no transfer {shortened(unknown[0])}; see: hpcserve transfers")
            shown = list(arguments.ids)
        return self._listed(deliveries, shown)

    async def cancel(self, arguments: verbs.CancelTransfer, asking: Asking) -> verbs.TransferList:
        """One is not wanted any more."""
        deliveries, owner = self._seen(asking)
        found = deliveries.book.get(arguments.id)
        if found is None or (found.owner != owner and not self.administers(asking)):
            raise NotFound(f"no transfer {shortened(arguments.id)}; see: hpcserve transfers")
        await deliveries.cancel(found.id)
        return self._listed(deliveries, [found.id])

    def _seen(self, asking: Asking) -> tuple[Deliveries, str]:
        """The caller's own directory. Whoever comes with a new token lets go on what waits for that."""
        if self._deliveries is None or self._wallet is None:
            raise Conflict("this service transfers nothing: its site file has auth = 'keys', or no staging.collections")
        identity = asking.asker.identity
        owner = own_directory(identity)
        if self._wallet.seen(owner, identity.token_sha256):
            self._deliveries.logged_in(owner)
        return self._deliveries, owner

    async def _delivery(self, owner: str, path: str, to: str) -> Delivery:
        """One file of the caller's, and where it goes."""
        above, _, name = path.rpartition("/")
        if above != f"{self._directory}/{owner}" or not name or name.startswith("."):
            raise PermissionDenied(f"{shortened(path)} is no staged result of yours")
        source = globus_uri(path, self._collections)
        if source is None:
            raise Conflict(
                f"{self._directory} is on none of the site's staging.collections; fetch the result otherwise"
            )
        target = destination(to, name)
        try:
            found = await asyncio.to_thread(os.lstat, path)
        except FileNotFoundError as error:
            raise StagedFileGone(f"{path} is gone: staged results are kept for a time; call again") from error
        if not stat.S_ISREG(found.st_mode):
            raise PermissionDenied(f"{path} is no file")
        assert self._deliveries is not None, "looked at before"
        return Delivery(
            delivery_id(owner, name, target),
            owner,
            name,
            destination(source, ""),
            target,
            found.st_size,
            self._deliveries.now(),
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
    storage: Storage,
    ask: Callable[[str], Awaitable[str]],
    delivered: Callable[[str, str], Awaitable[object]],
) -> Transferring:
    """What a site's service does about transfers: nothing, unless it is at Globus and has collections.

    Args:
        site: The site.
        storage: The store.
        ask: Gives the token of a SHA-256 by which somebody is in; empty: nobody is.
        delivered: Told of each file that has arrived, by its owner and name.

    Raises:
        ConfigError: The secret of the service cannot be read, or the Globus SDK is not installed.
    """
    if site.auth != "globus" or not site.staging.collections:
        return Transferring(site, None, None)
    grants = Grants(rules_of(site), read_secret(secret_file(site)))
    wallet = Wallet(grants, Seal(site.state_dir / SEAL_KEY), storage, ask)
    doors = Doors(site.staging_dir, collections_of(site), grants.own)
    deliveries = Deliveries(
        limits_of(site),
        storage,
        wallet,
        doors,
        carrier=lambda token: GlobusTransfer(token, deadline_s=site.staging.transfer_deadline_s),
        delivered=lambda each: delivered(each.owner, each.name),
    )
    return Transferring(site, deliveries, wallet)


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
    )
