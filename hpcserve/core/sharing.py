"""What lies at one replica while another has nothing to do: which is to give back how much of it.

Credit is given for calls like those before. When slow ones follow quick ones, many of them may be sent to one replica
before it is known how long they take. The rule: where a replica of the deployment is idle and nothing is queued, the
one with the most unfinished work, if it has answered nothing for ``SILENT_S``, gives back what the idle ones could take
of it. It is asked once, and reads that when its call has ended; what it has begun it keeps. A replica that has only
streams that have begun is idle, too, as these may take days; but they count in what it can take, since what is given
back goes to the replica with the fewest requests, and would else come back to the one that gave it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hpcserve.core.lanes import Lane
from hpcserve.core.ledger import NEVER
from hpcserve.core.replicas import Replica

SILENT_S = 0.1
LEAST = 2
"""With fewer unfinished requests a replica has nothing to give back: it runs one."""


def overloaded(
    lanes: Iterable[Lane], replicas: Iterable[Replica], now: float, streams: Callable[[Replica], int]
) -> tuple[list[tuple[Replica, int]], bool]:
    """The replicas that are to give something back, each with how much; and whether to look again soon.

    ``streams``: how many of a replica's unfinished requests are streams that have begun, which it keeps.
    """
    idle = {lane: lane.load.idle_loads(streams) for lane in lanes if not lane.queue.count}
    if not any(idle.values()):
        return [], False
    most: dict[Lane, Replica] = {}
    soon = False
    for replica in replicas:
        if replica.waiting < LEAST or replica.waiting - streams(replica) < LEAST:
            replica.silent_since = NEVER
        elif idle.get(replica.lane):
            soon = True
            best = most.get(replica.lane)
            if _may_share(replica, now) and (best is None or best.waiting < replica.waiting):
                most[replica.lane] = replica
    shares = ((replica, _share(replica.waiting, idle[lane])) for lane, replica in most.items())
    return [(replica, share) for replica, share in shares if share], soon


def _may_share(replica: Replica, now: float) -> bool:
    if replica.answered != replica.silent_at or replica.silent_since == NEVER:
        replica.silent_at, replica.silent_since = replica.answered, now
    silent = now - replica.silent_since >= SILENT_S
    return silent and not replica.asked_back and not replica.exclusive and replica.connection is not None


def _share(waiting: int, idle: list[int]) -> int:
    """How much of it others take, least loaded first, if each then holds as much as the one that gives."""
    keeps, held = waiting, waiting
    for count, load in enumerate(idle, 2):
        if load >= keeps:
            break
        held += load
        keeps = -(-held // count)
    return waiting - keeps
