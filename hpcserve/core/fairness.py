"""How the room of a site is shared by deployments that together want more. One pure function.

What was promised comes first: the replicas of a deployment whose number is fixed, and the minimum of one that is
scaled. Then each gets one replica, however wide it is, and the rest is filled up from below, as water fills a vessel:
nobody gets one replica more while somebody who wants more has fewer slots (*max-min fair*). So none that asks has
nothing while another has two, but for what was promised.

Where the last layer does not suffice for all that stand at it, those who have that replica already keep it: nothing
ends only to begin elsewhere. Of the others the one that has had none for the longest comes first; then names decide.
If there is no room for the first replica of that one, because it is wide, nobody who came later gets it bit by bit:
what is left is kept for it. For a further replica nothing is kept: what does not suffice for a wide one, others get.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass

from hpcserve.types import DeploymentName


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one deployment wants, and has.

    Attributes:
        name: The deployment.
        wanted: So many replicas.
        promised: So many of them it gets before anybody shares.
        held: So many it has that are not ending.
        waits_since_s: Since when it wants some and has none; infinite where it is not so.
        width: The slots of each.
    """

    name: DeploymentName
    wanted: int
    promised: int = 0
    held: int = 0
    waits_since_s: float = math.inf
    width: int = 1


def fair_shares(room: int, wishes: Collection[Wish]) -> dict[DeploymentName, int]:
    """How many replicas each deployment is to have.

    Args:
        room: The slots that all may have together. Where more is promised, each gets what it was promised, and no more.
        wishes: Of each deployment one.
    """
    level = (
        bisect_right(range(room + 1), room, key=lambda level: sum(_filled(each, level) * each.width for each in wishes))
        - 1
    )
    shares = {each.name: _filled(each, max(0, level)) for each in wishes}
    left = room - sum(shares[each.name] * each.width for each in wishes)

    def turn(each: Wish) -> tuple[bool, int, bool, float, DeploymentName]:
        share = shares[each.name]
        return share > 0, share * each.width, each.held <= share, each.waits_since_s, each.name

    more = [each for each in wishes if each.wanted > shares[each.name]]
    is_kept = False
    while left > 0 and more:
        each = min(more, key=turn)
        if each.width > left or (is_kept and each.held <= shares[each.name]):
            is_kept = is_kept or not (shares[each.name] or each.held)
            more.remove(each)
            continue
        shares[each.name] += 1
        left -= each.width
        if each.wanted == shares[each.name]:
            more.remove(each)
    return shares


def _filled(wish: Wish, level: int) -> int:
    """The replicas of one whose slots reach a level, the first one from the lowest on."""
    return min(wish.wanted, max(wish.promised, min(level, 1), level // wish.width))
