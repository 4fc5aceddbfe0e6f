"""What the broker, admission and the agents are told: all of it, whenever it is not what they were told last.

What it says is made in :mod:`hpcserve.daemon.controller.plan`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import chain

from hpcserve.config import Site
from hpcserve.core.access import Deployment, Servable
from hpcserve.core.fleet import Fleet
from hpcserve.daemon.access import groups_count
from hpcserve.daemon.controller.hub import HubLine
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.plan import Servables, orders, routes
from hpcserve.registry.rows import DeploymentRow
from hpcserve.types import DeploymentName, PilotId
from hpcserve.wire import hub
from hpcserve.wire.agents import Orders
from hpcserve.wire.frames import encode


class Telling:
    """Remembers what was told, so that nothing is told twice.

    Args:
        site: The site.
        line: To the broker, which relays to the others.
        pilots: The jobs.
        fleet: The books.
        served: What is wanted.
        servables: The versions of it.
        access: Whose a deployment is, and what it serves.
        published: The servables' names, and who sees them.

    Attributes:
        routed: Set once the broker was told a routing table.
    """

    def __init__(
        self,
        site: Site,
        line: HubLine,
        pilots: Pilots,
        fleet: Fleet,
        *,
        served: Mapping[DeploymentName, DeploymentRow],
        servables: Servables,
        access: Callable[[DeploymentName], Deployment],
        published: Mapping[str, Servable],
    ) -> None:
        self._site = site
        self._line = line
        self._pilots = pilots
        self._fleet = fleet
        self._served = served
        self._servables = servables
        self._access = access
        self._published = published
        self.routed = asyncio.Event()
        self._orders: dict[PilotId, Orders] = {}
        self._routes: hub.Routes | None = None
        self._secrets: hub.PilotSecrets | None = None
        self._groups: hub.GroupsCount | None = None

    def tell_agents(self, pilots: Iterable[PilotId]) -> None:
        """The agents of these pilots are told what to run."""
        for pilot in pilots:
            job = self._pilots.jobs.get(pilot)
            if job is None:
                continue
            message = orders(
                self._fleet,
                pilot,
                job.row.incarnation,
                self._servables,
                setup_timeout_s=self._site.pilots.setup_timeout_s,
                outbox_bytes=self._site.budgets.outbox_bytes,
                hang_grace_s=self._site.recovery.hang_grace_s,
            )
            if message != self._orders.get(pilot):
                self._orders[pilot] = message
                self._line.tell(hub.ToAgentRelay(pilot, encode(message)))

    def tell_admission(self) -> None:
        """Which pilots may enrol, so that no stranger can keep them out, and whether groups matter."""
        message = hub.PilotSecrets({pilot: job.row.secret_sha256 for pilot, job in self._pilots.jobs.items()})
        if message != self._secrets:
            self._secrets = message
            self._line.tell(message)
        count = hub.GroupsCount(self.groups_count)
        if count != self._groups:
            self._groups = count
            self._line.tell(count)

    @property
    def groups_count(self) -> bool:
        """Whether any rule names a group, of the site's or of who sees a servable."""
        visible_to = chain.from_iterable(each.visible_to for each in self._published.values())
        return groups_count(self._site, visible_to)

    def tell_broker(self) -> None:
        """The routing table."""
        table = routes(self._fleet, self._served, self._servables, self._access)
        if table != self._routes:
            self._routes = table
            self._line.tell(table)
        self.routed.set()

    def tell_again(self, pilot: PilotId) -> None:
        """The agent of a pilot is told its orders again, whatever it was told: it may be another one."""
        self._orders.pop(pilot, None)

    def tell_all_again(self) -> None:
        """Everybody is told everything again: there is a new broker, or a new connection to it."""
        self._routes = None
        self._secrets = None
        self._groups = None
        self._orders.clear()
