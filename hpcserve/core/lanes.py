"""What waits for one deployment, the replicas that take it, and how much may wait.

A deployment may bound its queue: ``max_queue_bytes`` of requests, and ``max_queue_s`` of waiting. A request for which
no replica is free is refused when the bytes before it and its own are more than the one; or when it is expected to
wait longer than most of the other, or than until its own deadline. What is *before it* has a higher priority, or the
same and an earlier turn. The expected wait is the number of these requests by the rate at which the deployment is
served; while that is unknown, every wait is taken to be short enough.

The refusal says when to come back: when what is too much will have been served.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpcserve.core.ledger import NEVER
from hpcserve.core.longest import Longest
from hpcserve.core.pace import Pace
from hpcserve.core.queue import RequestQueue
from hpcserve.core.replicas import LeastLoaded, Replica
from hpcserve.core.sessions import Session
from hpcserve.errors import Overloaded
from hpcserve.types import DeploymentName

MARGIN = 0.8
"""So much of ``max_queue_s`` a request may be expected to wait: the estimate may be wrong by the rest, and what was
queued for so long should run and not be turned away at the end."""

SOONEST_S, LATEST_S = 0.1, 15.0  # a rate may be wrong, and nobody comes to a free replica before this is over
"""Nobody is told to come back sooner, or later, than this."""

LACKS_AGAIN_S = 5.0
"""That requests wait for a deployment without replicas is said so often at most."""


class Lane:
    """The queue of a deployment beside its replicas, which are ordered by load.

    A replica that has all the credit it wants still has a batch before it that has not begun. Urgent requests (of a
    priority above 0) are sent past that: they run in the next batch, not in the one after it. For them there is a
    second order, which is kept from the first such request on.

    ``came``, ``answered``, ``refused`` and ``expired`` count requests: all that there were, those that replicas
    answered (a stream with its first item), that the deployment had no room for, and whose deadline passed before they
    ran. ``kill_cancelled_s``: as in :class:`hpcserve.core.routes.Deployment`.
    """

    __slots__ = (
        "_looked_at",
        "answered",
        "came",
        "expired",
        "kill_cancelled_s",
        "load",
        "longest",
        "max_queue_bytes",
        "max_queue_s",
        "name",
        "pace",
        "queue",
        "refused",
        "reserve",
    )

    def __init__(self, name: DeploymentName) -> None:
        self.name = name
        self.queue = RequestQueue()
        self.load = LeastLoaded()
        self.reserve: LeastLoaded | None = None
        self.pace = Pace()
        self.longest = Longest()
        self.max_queue_bytes = self.max_queue_s = NEVER
        self.kill_cancelled_s: float | None = None
        self.came = self.answered = self.refused = self.expired = 0
        self._looked_at = -NEVER

    def is_looked_at(self, now: float) -> bool:
        """Whether a request waits, and it is time to see whether there is a replica at all."""
        if not self.queue.count or now - self._looked_at < LACKS_AGAIN_S:
            return False
        self._looked_at = now
        return True

    @property
    def wait_s(self) -> float | None:
        """How long a request would wait that is behind all others; None while that is not known."""
        if not self.queue.count:
            return 0.0
        return None if self.pace.per_s is None else self.queue.count / self.pace.per_s

    def refusal(self, session: Session, size_bytes: int, left_s: float, priority: int) -> Overloaded | None:
        """Why a request for which no replica is free is not queued; None: it is.

        Args:
            session: Whose it is.
            size_bytes: What it counts in the budgets.
            left_s: The time until its deadline, infinite without one.
            priority: Its own.
        """
        requests, before_bytes = self.queue.before(session, priority)
        over_bytes = before_bytes + size_bytes - self.max_queue_bytes
        per_s = self.pace.per_s
        if over_bytes > 0:
            drain_s = SOONEST_S if per_s is None else requests * over_bytes / max(1, before_bytes) / per_s
            return Overloaded(
                f"deployment {self.name!r}: a request of {size_bytes} bytes does not fit: {before_bytes} of "
                f"{self.max_queue_bytes:.0f} bytes are queued before it (max_queue_bytes)",
                retry_after_s=_bounded(drain_s),
            )
        if per_s is None:
            return None
        wait_s, most_s = requests / per_s, min(left_s, MARGIN * self.max_queue_s)
        if wait_s <= most_s:
            return None
        limit = f"its deadline is in {left_s:.2g} s" if most_s == left_s else f"max_queue_s is {self.max_queue_s:g} s"
        return Overloaded(
            f"deployment {self.name!r}: a request would wait about {wait_s:.2g} s, and {limit}: {requests} requests "
            f"are before it, and {per_s:.3g} are served in a second",
            retry_after_s=_bounded(wait_s - most_s),
        )

    def too_long(self) -> Overloaded:
        """Why a request that has waited for ``max_queue_s`` is not run."""
        wait_s = self.wait_s
        return Overloaded(
            f"deployment {self.name!r}: the request was not begun within {self.max_queue_s:g} s (max_queue_s); "
            "it did not run",
            retry_after_s=_bounded(0.0 if wait_s is None else wait_s - self.max_queue_s),
        )

    def update(self, replica: Replica) -> None:
        """The replica's load or credit changed."""
        self.load.update(replica)
        if self.reserve is not None:
            self.reserve.update(replica)

    def discard(self, replica: Replica) -> None:
        """The replica takes nothing any more, or nothing for now."""
        self.load.discard(replica)
        if self.reserve is not None:
            self.reserve.discard(replica)

    def pick_reserved(self, replicas: Iterable[Replica]) -> Replica | None:
        """The replica for an urgent request when none has credit; ``replicas`` are all that there are."""
        if self.reserve is None:
            self.reserve = LeastLoaded(urgent=True)
            for replica in replicas:
                if replica.lane is self:
                    self.reserve.update(replica)
        return self.reserve.pick()


def _bounded(pause_s: float) -> float:
    return min(max(pause_s, SOONEST_S), LATEST_S)
