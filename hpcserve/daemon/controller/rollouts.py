"""Which version serves in each deployment, kept in the store: after a restart the wanted one may not be startable.

What follows from it is decided in :mod:`hpcserve.core.rollout`.
"""

from __future__ import annotations

import logging

from hpcserve.core.fleet import Fleet
from hpcserve.core.rollout import FleetDeployment
from hpcserve.daemon.controller.plan import Servable, servable_of
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import StorageFull
from hpcserve.registry.rows import ServedRow
from hpcserve.registry.store import Store
from hpcserve.types import DeploymentName, Digest

_log = logging.getLogger(__name__)


class Rollouts:
    """Writes down what serves, when it changes, and tells a new controller's fleet."""

    def __init__(self, storage: Storage, fleet: Fleet) -> None:
        self._storage = storage
        self._fleet = fleet
        self._noted: dict[DeploymentName, ServedRow] = {}
        self._unwritten: dict[DeploymentName, ServedRow] = {}

    async def recall(self) -> dict[tuple[DeploymentName, str], Servable]:
        """Tells the fleet, which knows what is wanted, what served; returns these versions."""
        recalled = {}
        for row in await self._storage.do(Store.served):
            known = self._fleet.deployments.get(row.name)
            found = await self._storage.do(Store.version, row.version)
            if known is None or found is None:
                continue
            servable = recalled[row.name, str(row.version)] = servable_of(found)
            failure = row.reason if row.failed == known.version.digest else ""
            self._fleet.remember(row.name, servable.version, failure)
            self._noted[row.name] = row
        return recalled

    async def note(self) -> None:
        """Writes down what serves now, if it is not what served before."""
        for name in self._noted.keys() - self._fleet.deployments.keys():
            del self._noted[name]
        for name in self._unwritten.keys() - self._fleet.deployments.keys():
            del self._unwritten[name]
        rows = [_row(known) for known in self._fleet.deployments.values()]
        for row in [row for row in rows if row is not None and row != self._noted.get(row.name)]:
            try:
                await self._storage.do(Store.put_served, row)
            except StorageFull as error:
                if self._unwritten.get(row.name) != row:
                    _log.warning("what serves in deployment %s is not written down yet: %s", row.name, error)
                self._unwritten[row.name] = row
                continue
            self._noted[row.name] = row


def _row(known: FleetDeployment) -> ServedRow | None:
    if known.served is None:
        return None
    failure = known.own_failure
    return ServedRow(
        name=known.name,
        version=Digest(known.served.digest),
        failed="" if failure is None else known.version.digest,
        reason="" if failure is None else failure.reason,
    )
