"""Who asks about transfers, what is theirs, and what they are shown: with that all calls about transfers begin and end.

Which calls there are: :mod:`.transferring`, :mod:`.ownsubmissions`, :mod:`.httpsfetches`.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from hpcserve.config import Site
from hpcserve.core.access import Decision
from hpcserve.core.destinations import uri_of
from hpcserve.core.sitepaths import Collection
from hpcserve.core.spelling import shortened
from hpcserve.daemon.access import own_directory
from hpcserve.daemon.controller.arrivals import Arrivals
from hpcserve.daemon.controller.deliveries import Deliveries
from hpcserve.daemon.controller.doors import Doors
from hpcserve.daemon.controller.guard import Asking, Guard
from hpcserve.daemon.controller.outside import Outside
from hpcserve.daemon.controller.wallet import Wallet
from hpcserve.errors import Conflict, PermissionDenied, StagedFileGone
from hpcserve.wire import admin as verbs


class Service(NamedTuple):
    """What does the work."""

    deliveries: Deliveries
    wallet: Wallet
    doors: Doors
    outside: Outside
    arrivals: Arrivals


class Desk:
    """Knows callers by their directories of staged results.

    Args:
        site: Its collections, and where staged results are.
        guard: Who is an administrator; it writes down what was decided.
        service: What does the work; None: this service does no transfers.

    Attributes:
        guard: As above.
        service: As above.
        directory: Where staged results are.
        collections: Those of the site.
    """

    def __init__(self, site: Site, guard: Guard, service: Service | None) -> None:
        self.guard = guard
        self.service = service
        self.directory = site.staging_dir
        self.collections = collections_of(site)

    def seen(self, asking: Asking) -> tuple[Service, str]:
        """The caller's own directory. Whoever comes with a new token lets go on what waits for that."""
        if self.service is None:
            raise Conflict("this service transfers nothing: its site file has auth = 'keys', or no staging.collections")
        identity = asking.asker.identity
        owner = own_directory(identity)
        if self.service.wallet.seen(owner, identity.token_sha256):
            self.service.deliveries.logged_in(owner)
        return self.service, owner

    async def own(self, asking: Asking, action: str, owner: str, path: str) -> os.stat_result:
        """As :meth:`_stat`; what is another's is written down."""
        try:
            return await self._stat(owner, path)
        except PermissionDenied as error:
            decision = Decision(allowed=False, by="owner", reason=error.message)
            await self.guard.note(asking, action, path, decision)
            raise

    async def _stat(self, owner: str, path: str) -> os.stat_result:
        """Whether a path is that of a file of the caller's."""
        above, _, name = path.rpartition("/")
        if above != f"{self.directory}/{owner}" or not name or name.startswith("."):
            raise PermissionDenied(f"{shortened(path)} is no staged result of yours")
        try:
            found = await asyncio.to_thread(os.lstat, path)
        except FileNotFoundError as error:
            raise StagedFileGone(f"{path} is gone: staged results are kept for a time; call again") from error
        if not stat.S_ISREG(found.st_mode):
            raise PermissionDenied(f"{path} is no file")
        return found

    def is_mapped(self, collection: str) -> bool:
        """Whether a collection shows each user's own files, and wants a consent for that."""
        return any(each.id == collection and each.kind == "mapped" for each in self.collections)

    def listed(self, deliveries: Deliveries, ids: Sequence[str]) -> verbs.TransferList:
        """What is known of these, which are."""
        return verbs.TransferList(transfers=tuple(self._view(deliveries, each) for each in ids))

    def _view(self, deliveries: Deliveries, id: str) -> verbs.TransferView:
        delivery = deliveries.book.get(id)
        assert delivery is not None, "listed a moment ago"
        progress, in_all, files = deliveries.book.progress(id)
        moved = 0 if progress is None else min(progress.size_bytes, in_all)  # what is sent again has not moved twice
        moved, done = (in_all, files) if delivery.state == "succeeded" else (moved, progress.files if progress else 0)
        return verbs.TransferView(
            id=id,
            owner=delivery.owner,
            path=f"{self.directory}/{delivery.owner}/{delivery.name}",
            to=uri_of(delivery.target),
            state=delivery.state,
            size_bytes=delivery.size_bytes,
            asked_s=delivery.asked_s,
            ended_s=delivery.ended_s,
            why=deliveries.book.why(id),
            login=deliveries.book.login(id),
            task=delivery.task,
            task_bytes=moved,
            task_bytes_in_all=in_all,
            task_files=done,
            task_files_in_all=files,
            bytes_per_s=0.0 if progress is None else progress.bytes_per_s,
            until_s=deliveries.book.until(id),
        )


def collections_of(site: Site) -> list[Collection]:
    """The collections of a site."""
    return [Collection(each.id, each.prefix, each.kind, each.https) for each in site.staging.collections]
