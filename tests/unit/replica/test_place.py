"""Where a rank is, from its command line and its launcher's variables."""

from __future__ import annotations

import pytest

from hpcserve.pilot import ranks as agent
from hpcserve.replica.place import RANK_VARIABLES, Place, place_of


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, Place(0, 1, (0,), 1)),
        (["--node-slots", "4", "--ranks", "2"], {}, Place(0, 1, (2,), 4)),
        (["--node-slots", "4", "--ranks", "2"], {"PMI_RANK": "3"}, Place(0, 1, (2,), 4)),
        (["--node-slots", "2", "--ranks", "0:1:0:1"], {"PMI_RANK": "3"}, Place(3, 4, (1,), 2)),
        (["--node-slots", "4", "--ranks", "0,1:2,3"], {"SLURM_PROCID": "1"}, Place(1, 2, (2, 3), 4)),
        (["--node-slots", "4", "--ranks", "0:1"], {}, Place(None, 2, (0,), 4)),
        (["--node-slots", "4", "--ranks", "0:1"], {"PMI_RANK": "7"}, Place(7, 2, (0,), 4)),
        (["--node-slots", "4", "--ranks", "0:1"], {"PMI_RANK": "x"}, Place(None, 2, (0,), 4)),
    ],
)
def test_a_rank_knows_its_slots(arguments: list[str], environment: dict[str, str], expected: Place) -> None:
    assert place_of(arguments, environment) == expected


@pytest.mark.parametrize("place", range(len(RANK_VARIABLES)))
def test_the_launcher_nearest_to_mpi_is_believed(place: int) -> None:
    environment = {name: str(number) for number, name in enumerate(RANK_VARIABLES) if number >= place}
    assert place_of(["--ranks", "0:1:2:3:4"], environment).rank == place


@pytest.mark.parametrize("arguments", [["--ranks"], ["--slots", "1"], ["--ranks", "a"], ["--ranks", ""], ["0", "1"]])
def test_other_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="usage|invalid literal"):
        place_of(arguments, {})


@pytest.mark.parametrize("ranks", [((0,),), ((0, 1), (2, 3)), ((0,), (1,), (0,))])
def test_the_agent_s_words_are_understood(ranks: tuple[tuple[int, ...], ...]) -> None:
    for rank, held in enumerate(ranks):
        place = place_of(agent.Place(("here",), ranks).arguments(4), {"PMI_RANK": str(rank)})
        assert (place.rank, place.size, place.held, place.node_slots) == (rank, len(ranks), held, 4)
