"""To which nodes of its pilot a replica goes. Pure: its agent does so, and the controller counts on it.

A replica of one slot goes to the emptiest node, and one of several nodes to the emptiest ones: so most of its kind fit
into a pilot. One of several slots of one node goes where least is left beside it: room for large ones stays whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpcserve.core.width import ONE, Width


def seats(width: Width, free: Sequence[int]) -> list[int]:
    """The numbers of its nodes; of as good ones the first. None where there is no room for it.

    A replica of one slot always has a node: the controller has counted, and one that is ending may hold its slot a
    little longer.

    Args:
        width: What it takes.
        free: How many slots of each node it could take: where it takes whole GPUs, those of free ones. Negative where
            more are held than there are.
    """
    if width == ONE:
        return [max(range(len(free)), key=lambda node: free[node])] if free else []
    fit = [node for node, left in enumerate(free) if left >= width.per_node]
    fit.sort(key=lambda node: free[node] if width.nodes == 1 else -free[node])
    return sorted(fit[: width.nodes]) if len(fit) >= width.nodes else []
