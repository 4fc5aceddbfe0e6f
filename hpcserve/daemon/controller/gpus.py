"""Whether a site's pilots have GPUs for a servable that asks for some. Pure."""

from __future__ import annotations

from hpcserve.config import Site
from hpcserve.errors import InvalidInput
from hpcserve.servable.manifest import Ranks


def gpus_by_directive(site: Site) -> bool:
    """Whether a line of ``pilots.directives`` asks for GPUs."""
    return any("gpu" in line.lower() for line in site.pilots.directives)


def check_gpus(name: str, ranks: Ranks, site: Site) -> None:
    """Refuses to deploy a servable whose replicas would never be ready.

    A line of ``pilots.directives`` may ask for GPUs too: how many, the replicas will see.

    Raises:
        InvalidInput: Its ranks want GPUs, and the site's pilots ask for none.
    """
    if ranks.gpus_per_rank and not site.pilots.gpus_per_node and not gpus_by_directive(site):
        raise InvalidInput(
            f"servable {name!r} wants GPUs (ranks.gpus_per_rank = {ranks.gpus_per_rank}), and site {site.name!r} has "
            "none (pilots.gpus_per_node = 0): set pilots.gpus_per_node in the site file, or choose another site"
        )
