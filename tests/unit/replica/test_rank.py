"""Where a rank is, from its command line and its launcher's variables."""

from __future__ import annotations

import pytest

from hpcserve.pilot.command import wanted_in_words
from hpcserve.pilot.ranks import Place
from hpcserve.replica.rank import RANK_VARIABLES, Rank, forget_launcher, rank_of
from hpcserve.servable.manifest import Ranks
from hpcserve.wire.launch import NO_TOPOLOGY_FILE


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, Rank(0, 1, (0,), 1)),
        (["--node-slots", "4", "--ranks", "2"], {}, Rank(0, 1, (2,), 4)),
        (["--node-slots", "4", "--ranks", "2"], {"PMI_RANK": "3"}, Rank(0, 1, (2,), 4)),
        (["--node-slots", "2", "--ranks", "0:1:0:1"], {"PMI_RANK": "3"}, Rank(3, 4, (1,), 2)),
        (["--node-slots", "4", "--ranks", "0,1:2,3"], {"SLURM_PROCID": "1"}, Rank(1, 2, (2, 3), 4)),
        (["--node-slots", "4", "--ranks", "0:1"], {}, Rank(None, 2, (0,), 4)),
        (["--node-slots", "4", "--ranks", "0:1"], {"PMI_RANK": "7"}, Rank(7, 2, (0,), 4)),
        (["--node-slots", "4", "--ranks", "0:1"], {"PMI_RANK": "x"}, Rank(None, 2, (0,), 4)),
    ],
)
def test_a_rank_knows_its_slots(arguments: list[str], environment: dict[str, str], expected: Rank) -> None:
    assert rank_of(arguments, environment) == expected


@pytest.mark.parametrize("place", range(len(RANK_VARIABLES)))
def test_the_launcher_nearest_to_mpi_is_believed(place: int) -> None:
    environment = {name: str(number) for number, name in enumerate(RANK_VARIABLES) if number >= place}
    assert rank_of(["--ranks", "0:1:2:3:4"], environment).rank == place


@pytest.mark.parametrize("arguments", [["--ranks"], ["--slots", "1"], ["--ranks", "a"], ["--ranks", ""], ["0", "1"]])
def test_other_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="usage|invalid literal"):
        rank_of(arguments, {})


def test_what_the_rank_wants_of_its_node_is_understood() -> None:
    place = rank_of((*Place(("here",), ((0,),)).arguments(4), *wanted_in_words(Ranks(gpus_per_rank=2), "numa")), {})
    assert (place.gpus, place.bind) == (2, "numa")
    assert wanted_in_words(Ranks(), "none") == ()


@pytest.mark.parametrize("ranks", [((0,),), ((0, 1), (2, 3)), ((0,), (1,), (0,))])
def test_the_agent_s_words_are_understood(ranks: tuple[tuple[int, ...], ...]) -> None:
    for rank, held in enumerate(ranks):
        place = rank_of(Place(("here",), ranks).arguments(4), {"PMI_RANK": str(rank)})
        assert (place.gpus, place.bind) == (0, "none")
        assert (place.rank, place.size, place.held, place.node_slots) == (rank, len(ranks), held, 4)


def test_a_servable_does_not_see_what_only_its_launcher_is_told() -> None:
    environment = {**NO_TOPOLOGY_FILE, "HOME": "/home/a"}
    forget_launcher(environment)
    assert environment == {"HOME": "/home/a"}
    of_the_site = {"HWLOC_XMLFILE": "/etc/node.xml"}
    forget_launcher(of_the_site)
    assert of_the_site == {"HWLOC_XMLFILE": "/etc/node.xml"}
