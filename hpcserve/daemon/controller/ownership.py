"""Whose everything is, and who sees it: the servables' names, the deployments, and what replicas ran.

In memory, as it is in the store: the routing table is made of it. Decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from hpcserve.core.access import Deployment, Servable
from hpcserve.core.fleet import Fleet
from hpcserve.daemon.controller import plan
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import StorageFull
from hpcserve.registry.rows import DeploymentRow, NameRow, RanRow
from hpcserve.registry.store import Store
from hpcserve.types import DeploymentName

_log = logging.getLogger(__name__)

UNKNOWN = Deployment("", Servable("", ()))
"""What nothing is known of is the administrators'."""


class Ownership:
    """What is known of owners.

    Args:
        storage: The store.
        fleet: The replicas that there are.
        served: The deployments.
        servables: The versions that are served.
    """

    def __init__(
        self,
        storage: Storage,
        fleet: Fleet,
        served: Mapping[DeploymentName, DeploymentRow],
        servables: plan.Servables,
    ) -> None:
        self._storage = storage
        self._fleet = fleet
        self._served = served
        self._servables = servables
        self.names: dict[str, Servable] = {}
        self._ran: dict[str, RanRow] = {}
        self._unwritten: dict[str, RanRow] = {}

    async def recall(self) -> None:
        """Reads what the store says."""
        for row in await self._storage.do(Store.names):
            self.named(row)
        self._ran = {row.replica: row for row in await self._storage.do(Store.ran)}

    def named(self, row: NameRow) -> None:
        """A servable's name is somebody's now, or others see it."""
        self.names[row.name] = Servable(row.owner, row.rules)

    def servable(self, name: str) -> Servable:
        """Whose a name is; one that nothing is known of is the administrators'."""
        return self.names.get(name, UNKNOWN.servable)

    def deployment(self, name: DeploymentName) -> Deployment:
        """Whose a deployment is, and what it serves: until another servable takes over there, the one before."""
        row = self._served.get(name)
        if row is None:
            return UNKNOWN
        serving = plan.serving(self._fleet, name, self._servables)
        return Deployment(row.owner, self.servable(serving.manifest.name))

    def has_run(self, replica: str) -> bool:
        """Whether something is known of this replica."""
        return replica in self._ran

    def ran(self, replica: str) -> Deployment:
        """Whose a replica is or was, and what it ran."""
        row = self._ran.get(replica)
        return UNKNOWN if row is None else Deployment(row.owner, self.servable(row.servable))

    async def note(self) -> None:
        """Writes down what new replicas run."""
        for replica in self._fleet.replicas.values():
            row = self._served.get(replica.deployment)
            known = self._servables.get((replica.deployment, replica.version.digest))
            if replica.replica not in self._ran and row is not None and known is not None:
                new = RanRow(replica=replica.replica, servable=known.manifest.name, owner=row.owner)
                self._ran[replica.replica] = self._unwritten[replica.replica] = new
        if not self._unwritten:
            return
        rows = dict(self._unwritten)
        try:
            await self._storage.do(Store.put_ran, list(rows.values()))
        except StorageFull as error:
            _log.warning("what replicas run is not written down yet: %s", error)
            return
        for written in rows:
            self._unwritten.pop(written, None)

    async def prune(self, logs: Path, is_live: Callable[[str], bool]) -> None:
        """Forgets what replicas ran that are gone, and of whom there is no log."""
        try:
            over = [each for each in self._ran if not is_live(each) and not (logs / f"{each}.log").exists()]
        except OSError as error:  # such as a stale handle
            _log.warning("what replicas ran that are gone is kept: %s", error)
            return
        if over:
            await self._storage.do(Store.forget_ran, over)
            for replica in over:
                self._ran.pop(replica, None)
