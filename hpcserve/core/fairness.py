"""How the room of a site is shared by deployments that together want more. One pure function.

What was promised comes first: the replicas of a deployment whose number is fixed, and the minimum of one that is
scaled. The rest is filled up from below, as water fills a vessel: nobody gets one replica more while somebody who wants
more has fewer (*max-min fair*). So none that asks has nothing while another has two, but for what was promised.

Where the last layer does not suffice for all that stand at it, those who have that replica already keep it: nothing
ends only to begin elsewhere. Of the others the one that has had none for the longest comes first; then names decide.
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
    """

    name: DeploymentName
    wanted: int
    promised: int = 0
    held: int = 0
    waits_since_s: float = math.inf


def fair_shares(room: int, wishes: Collection[Wish]) -> dict[DeploymentName, int]:
    """How many replicas each deployment is to have.

    Args:
        room: How many all may have together. Where more is promised, each gets what it was promised, and no more.
        wishes: Of each deployment one.
    """
    level = bisect_right(range(room + 1), room, key=lambda level: sum(_filled(each, level) for each in wishes)) - 1
    shares = {each.name: _filled(each, level) for each in wishes}
    left = room - sum(shares.values())
    at_level = [each for each in wishes if each.wanted > level >= each.promised]
    for each in sorted(at_level, key=lambda each: (each.held <= level, each.waits_since_s, each.name))[:left]:
        shares[each.name] += 1
    return shares


def _filled(wish: Wish, level: int) -> int:
    return min(wish.wanted, max(wish.promised, level))
