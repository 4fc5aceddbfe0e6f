"""What ``publish`` and ``share`` do: servables are taken in, and shown to whom their owners say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeVar

from hpcserve.config import in_words, visibility
from hpcserve.core.access import Servable, Service
from hpcserve.daemon.access import own_directory
from hpcserve.daemon.controller.callers import anchor_of, check_directory, check_manifest
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.guard import Asking
from hpcserve.daemon.images import SiteContainers
from hpcserve.errors import InvalidInput, Overloaded, UnknownServable
from hpcserve.registry.ingest import Ingested, ingest
from hpcserve.registry.rows import NameRow, ServableRow
from hpcserve.registry.store import Store
from hpcserve.servable.manifest import check_name, to_json
from hpcserve.wire import admin as verbs

T = TypeVar("T")

IMPORT_S = 120.0
INGESTERS, MOST_INGESTING = 2, 8
"""So many servables are taken in at a time; so many may wait for it or be at it."""


class Publishing:
    """Takes servables in."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._ingesters = ThreadPoolExecutor(INGESTERS, thread_name_prefix="ingest")
        self._ingesting = 0
        self._stopped = Event()

    def close(self) -> None:
        """Gives up what takes long."""
        self._stopped.set()
        self._ingesters.shutdown(wait=False, cancel_futures=True)

    async def publish(self, arguments: verbs.Publish, asking: Asking) -> verbs.Published:
        """Takes a servable's directory in. Whose name it is, its manifest tells: so that is looked at first."""
        controller = self._controller
        for alias in arguments.aliases:
            checked(partial(check_name, "an alias", alias))
        rules = self._rules(arguments.visible_to) if arguments.visible_to else None
        await self._may_publish_at_all(asking)
        owner = own_directory(asking.asker.identity)
        await asyncio.to_thread(check_directory, controller.site, owner, arguments.path)
        found = await self._ingest(Path(arguments.path), owner)
        name = found.manifest.name
        known = controller.ownership.names.get(name)
        await controller.guard.check(asking, "publish", Service() if known is None else known, name)
        mine = NameRow.made(name, *self._owned(known, rules, asking))
        row = ServableRow(
            name=name,
            version=found.version,
            manifest_json=to_json(found.manifest),
            path=str(found.path),
            created_s=time.time(),
        )
        new = await controller.storage.do(Store.add_servable, row, mine)
        self._named(mine)
        for alias in arguments.aliases:
            await controller.storage.do(Store.set_alias, row.name, alias, row.version)
        methods = tuple(found.manifest.methods)
        return verbs.Published(
            name=name, version=row.version, methods=methods, new=new, visible_to=in_words(mine.rules)
        )

    async def share(self, arguments: verbs.Share, asking: Asking) -> verbs.Shared:
        """Says who sees a servable from now on."""
        controller, name = self._controller, arguments.servable
        rules = self._rules(arguments.visible_to)
        hidden = controller.hidden_servables(asking)
        try:
            await controller.storage.do(Store.resolve, name, hidden)
        except UnknownServable:
            if name in hidden:
                await controller.guard.refuse_hidden(asking, "administer", name)
            raise
        if "@" in name:
            raise InvalidInput(f"{name!r} is one version; who sees a servable is said of its name, for all versions")
        known = controller.ownership.servable(name)
        await controller.guard.check(asking, "administer", known, name)
        row = NameRow.made(name, known.owner, rules)
        await controller.storage.do(Store.put_name, row)
        self._named(row)
        await controller.wait_for_routes()  # before the answer: who may not call it any more does not
        return verbs.Shared(servable=name, visible_to=in_words(rules))

    def _rules(self, words: Iterable[str]) -> tuple[str, ...]:
        """The rules of these words, where they can be kept to."""
        rules = checked(lambda: visibility(words))
        if "*" not in rules and self._controller.guard.everybody_administers:
            raise InvalidInput(
                f"visible_to is {', '.join(in_words(rules))}: nothing is hidden here, since everybody is an "
                'administrator; name them in the site file: [access] administer = { allow = ["user:NAME"] }'
            )
        return rules

    def _owned(self, known: Servable | None, rules: tuple[str, ...] | None, asking: Asking) -> Servable:
        """Whose it is and who sees it, when this is published."""
        if known is None:
            default = visibility((self._controller.site.access.default_visibility,))
            known = Servable(asking.caller.principal, default)
        return known if rules is None else known._replace(visible_to=rules)

    def _named(self, row: NameRow) -> None:
        self._controller.ownership.named(row)
        self._controller.change()

    async def _may_publish_at_all(self, asking: Asking) -> None:
        """Before anything is copied. That it is allowed is written down when it is known what is published."""
        guard = self._controller.guard
        if not guard.may(asking, "publish", Service()):
            await guard.check(asking, "publish", Service(), "a servable")

    async def _ingest(self, path: Path, owner: str) -> Ingested:
        """Takes a directory in on threads of its own: copying and importing may take minutes."""
        if not path.is_absolute():
            raise InvalidInput(
                f"the path {str(path)!r} is relative, and the daemon runs elsewhere; give the whole path"
            )
        if self._ingesting >= MOST_INGESTING:
            raise Overloaded(f"{self._ingesting} servables are being published", retry_after_s=5.0)
        self._ingesting += 1
        try:
            site = self._controller.site
            containers = SiteContainers(site, timeout_s=IMPORT_S)
            work = partial(
                ingest,
                path,
                site.shared_dir,
                timeout_s=IMPORT_S,
                anchor=anchor_of(site),
                stop=self._stopped,
                prologue=site.environments.prologue,
                containers=containers,
                check=partial(check_manifest, site, owner),
            )
            return await asyncio.get_running_loop().run_in_executor(self._ingesters, work)
        finally:
            self._ingesting -= 1


def checked(made: Callable[[], T]) -> T:
    """What is made of a caller's words.

    Raises:
        InvalidInput: The words are wrong.
    """
    try:
        return made()
    except ValueError as error:
        raise InvalidInput(str(error)) from error
