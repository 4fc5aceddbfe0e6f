"""What becomes of the pilots when the daemon goes down: whoever tells it to says so, and else it is what is usual.

How that is written down is told in :mod:`hpcserve.daemon.farewell`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from hpcserve.config import Site
from hpcserve.core.fleet import Fleet
from hpcserve.daemon import farewell, leftovers
from hpcserve.daemon.controller.fence import Fence
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.scheduling import Scheduling
from hpcserve.daemon.farewell import Farewell
from hpcserve.daemon.leftovers import LeftBehind

_log = logging.getLogger(__name__)


class Parting:
    """Keeps what was said, and does it.

    Args:
        site: The site.
        fleet: The books.
        pilots: The jobs.
        scheduling: Ends them.
        fence: Says whether the lease is still ours.
        unbidden: What becomes of the pilots when nobody has said.
        change: Has everything looked at soon.
    """

    def __init__(
        self,
        site: Site,
        *,
        fleet: Fleet,
        pilots: Pilots,
        scheduling: Scheduling,
        fence: Fence,
        unbidden: Farewell,
        change: Callable[[], None],
    ) -> None:
        self._site = site
        self._fleet = fleet
        self._pilots = pilots
        self._scheduling = scheduling
        self._fence = fence
        self._unbidden: Farewell = unbidden
        self._change = change
        self.how: Farewell = unbidden
        """What becomes of them."""

    @property
    def goes_down(self) -> bool:
        """Whether somebody said what is to become of the pilots."""
        return self.how != self._unbidden

    def recall(self) -> None:
        """Takes up what was said to an earlier controller of this daemon."""
        self._take(farewell.read(self._site.state_dir) or self._unbidden)

    def bid(self, how: Farewell) -> None:
        """The daemon is to go down. If its pilots are drained, it does so when none is left.

        Raises:
            HpcserveError: It cannot be written down, and so would be forgotten with this process; nothing happens.
        """
        if how == self._unbidden:
            farewell.clear(self._site.state_dir)
        else:
            farewell.write(self._site.state_dir, how)
        self._take(how)

    async def part(self) -> None:
        """The daemon goes down: unless they are kept, every pilot has ended then, or had its time to."""
        # Who could not reach us wrote it down, and told the supervisor by a signal.
        self.how = farewell.read(self._site.state_dir) or self.how
        if self.how == "keep" or (self._unbidden == "keep" and self.how == "drain"):
            # The job of a daemon that drained has ended before it had: the next daemon goes on with what still runs.
            _log.info("these pilots go on: %s", ", ".join(self._pilots.jobs) or "none")
        else:
            await self._end_pilots()

    def _take(self, how: Farewell) -> None:
        self.how = how
        if how == "drain":  # one that is taken back ends at once: nothing is to begin again before that
            self._fleet.is_draining = True
        self._change()

    async def _end_pilots(self) -> None:
        self._note_left(leftovers.NOT_CONFIRMED)  # should this process be killed meanwhile
        self._fleet.end_pilots()
        self._change()
        within_s = 2 * self._site.pilots.stop_grace_s + 5.0 + self._site.scheduler.poll_s
        await self._scheduling.end_all(within_s, asking_s=self._site.scheduler.timeout_s)
        self._note_left(self._fence.trouble)

    def _note_left(self, why: str) -> None:
        left = [
            LeftBehind(pilot, job.name or "", why or job.state.cause or leftovers.not_ended(job.state.phase))
            for pilot, job in self._pilots.jobs.items()
        ]
        leftovers.write(self._site.shared_dir, left)
