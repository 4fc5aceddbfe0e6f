"""A servable that wants GPUs is refused where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.config import Site
from hpcserve.config.sections import Pilots
from hpcserve.core import width as core
from hpcserve.daemon.controller.books import fleet_of
from hpcserve.daemon.controller.gpus import check_gpus
from hpcserve.errors import InvalidInput
from hpcserve.servable.manifest import Ranks


def site(pilots: Pilots) -> Site:
    return Site(name="lab", state_dir=Path("/state"), shared_dir=Path("/shared"), pilots=pilots)


def test_a_site_without_gpus_refuses_who_wants_some() -> None:
    with pytest.raises(InvalidInput, match=r"'net' wants GPUs \(ranks.gpus_per_rank = 2\), and site 'lab' has none"):
        check_gpus("net", Ranks(gpus_per_rank=2), site(Pilots()))


@pytest.mark.parametrize(
    ("ranks", "pilots"),
    [
        (Ranks(), Pilots()),
        (Ranks(gpus_per_rank=1), Pilots(gpus_per_node=4, slots=4)),
        (Ranks(gpus_per_rank=1), Pilots(directives=("--gres=gpu:a100:2",), slots=2)),
    ],
)
def test_who_wants_none_or_finds_some_is_taken(ranks: Ranks, pilots: Pilots) -> None:
    check_gpus("net", ranks, site(pilots))
    wanted = core.Ranks(ranks.size, ranks.nodes, ranks.gpus_per_rank)
    assert core.misfit(wanted, fleet_of(site(pilots)).policy) == ""
