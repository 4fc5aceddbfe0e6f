"""The calls about transfers: to ask for one, to look at them, to cancel one. Each caller has to do with its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from hpcserve.auth.globus import read_secret
from hpcserve.auth.grants import Grants
from hpcserve.auth.sealed import Seal
from hpcserve.config import Site
from hpcserve.core.access import Decision
from hpcserve.core.delivery import Delivery, End, Limits
from hpcserve.core.destinations import destination, uri_of
from hpcserve.core.sitepaths import globus_uri
from hpcserve.core.spelling import shortened
from hpcserve.daemon.controller.arrivals import Arrivals
from hpcserve.daemon.controller.deliveries import Deliveries
from hpcserve.daemon.controller.doors import Doors
from hpcserve.daemon.controller.guard import OWN, Asking, Guard
from hpcserve.daemon.controller.httpsfetches import HttpsFetches
from hpcserve.daemon.controller.outside import Outside
from hpcserve.daemon.controller.ownsubmissions import OwnSubmissions
from hpcserve.daemon.controller.storage import Storage
from hpcserve.daemon.controller.transferdesk import Desk, Service, collections_of
from hpcserve.daemon.controller.wallet import Wallet
from hpcserve.daemon.registration import rules_of, secret_file
from hpcserve.errors import (
    Conflict,
    InvalidInput,
    NotFound,
)
from hpcserve.staging.transfer import GlobusTransfer
from hpcserve.wire import admin as verbs

MOST_PATHS = 1000
SEAL_KEY = "logins.key"


class Transferring:
    """Answers the calls.

    Args:
        site: Its collections, and where staged results are.
        guard: Who is an administrator; it writes down what was decided.
        service: What does the work; None: this service does no transfers.

    Attributes:
        submissions: Answers those about what owners submit themselves.
        fetches: Answers the one about results by HTTPS.
    """

    def __init__(self, site: Site, guard: Guard, service: Service | None) -> None:
        self._desk = Desk(site, guard, service)
        self._service = service
        self.submissions = OwnSubmissions(self._desk)
        self.fetches = HttpsFetches(self._desk, site.staging.https_limit_bytes)

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

    async def discarded(self, keys: Iterable[tuple[str, str]]) -> None:
        """Staged results, by owner and name, were discarded."""
        if self._service is not None:
            await self._service.deliveries.discarded(keys)

    async def deliver(self, arguments: verbs.Deliver, asking: Asking) -> verbs.TransferList:
        """Staged results of the caller's are to go to a collection."""
        service, owner = self._desk.seen(asking)
        if not 1 <= len(arguments.paths) <= MOST_PATHS:
            raise InvalidInput(f"paths has {len(arguments.paths)} entries; expected from 1 to {MOST_PATHS}")
        if len(arguments.paths) > 1 and not arguments.to.endswith("/"):
            raise InvalidInput(
                f"to={shortened(arguments.to)}: several files go to a directory; let it end with a slash"
            )
        wanted = []
        for path in arguments.paths:
            found = await self._desk.own(asking, "deliver", owner, path)
            wanted.append(self._delivery(service, owner, path, arguments.to, found.st_size))
        try:
            await service.arrivals.check(owner, arguments.to)
        except InvalidInput as error:
            raise InvalidInput(
                f"{error.message}; as long as it is kept, the result is in {path} on the site"
            ) from error
        for each in wanted:
            await self._desk.guard.note(asking, "deliver", f"{each.name} to {uri_of(each.target)}", OWN)
        if arguments.keep_login:
            await service.wallet.may_keep(owner)
        await service.deliveries.ask(wanted)
        return self._desk.listed(service.deliveries, [each.id for each in wanted])

    async def destination(self, arguments: verbs.AskDestination, asking: Asking) -> verbs.Destination:
        """Whether a result of the caller's can come to a place, as far as can be seen."""
        service, owner = self._desk.seen(asking)
        await service.arrivals.check(owner, arguments.to)
        return verbs.Destination()

    async def transfers(self, arguments: verbs.AskTransfers, asking: Asking) -> verbs.TransferList:
        """Those of the caller, or of everybody."""
        service, owner = self._desk.seen(asking)
        if arguments.everybody:
            await self._desk.guard.check_everybody(asking, "transfers")
        shown = [each.id for each in service.deliveries.book.deliveries(None if arguments.everybody else owner)]
        if arguments.ids:
            unknown = [each for each in arguments.ids if each not in shown]
            if unknown:
                raise NotFound(f"no transfer {shortened(unknown[0])}; see: hpcserve transfers")
            shown = list(arguments.ids)
        return self._desk.listed(service.deliveries, shown)

    async def cancel(self, arguments: verbs.CancelTransfer, asking: Asking) -> verbs.TransferList:
        """One is not wanted any more."""
        service, owner = self._desk.seen(asking)
        found = service.deliveries.book.get(arguments.id)
        decision = self._desk.guard.judge_owned(asking, own=found is not None and found.owner == owner)
        if found is None or not decision.allowed:
            reason = "no such transfer of the caller's"
            refused = Decision(allowed=False, by="owner", reason=reason)
            await self._desk.guard.note(asking, "cancel-transfer", arguments.id, refused)
            raise NotFound(f"no transfer {shortened(arguments.id)}; see: hpcserve transfers")
        await self._desk.guard.note(asking, "cancel-transfer", found.id, decision)
        await service.deliveries.cancel(found.id)
        return self._desk.listed(service.deliveries, [found.id])

    async def fetched(self, owner: str, paths: Sequence[str]) -> None:
        """A caller has results: an access rule that was made for that may not be needed any more."""
        if self._service is not None:
            await self._service.doors.fetched(owner, paths, partial(self._service.deliveries.is_idle, owner))

    def _delivery(self, service: Service, owner: str, path: str, to: str, size_bytes: int) -> Delivery:
        """One file of the caller's, and where it goes."""
        name = path.rpartition("/")[2]
        source = globus_uri(path, self._desk.collections)
        if source is None:
            raise Conflict(
                f"{self._desk.directory} is on none of the site's staging.collections; fetch the result otherwise"
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


def delivery_id(owner: str, name: str, target: End) -> str:
    """The id of a delivery: of the same file to the same place always the same, so that asking again is harmless."""
    words = "\0".join((owner, name, *target))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


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
