"""The slots of a replica from its ranks, and what fits into no pilot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.fleetview import Policy
from hpcserve.core.room import Room, nodes_for, packed, slots_of
from hpcserve.core.width import ONE, Ranks, Width, misfit, slots_per_rank, width, width_of


@pytest.mark.parametrize(
    ("ranks", "replicas_per_gpu", "expected"),
    [
        (Ranks(), 1, Width(1, 1)),
        (Ranks(), 4, Width(1, 1)),
        (Ranks(4), 1, Width(1, 4)),
        (Ranks(4, nodes=2), 1, Width(2, 2)),
        (Ranks(1, gpus_per_rank=1), 4, Width(1, 4, 4)),
        (Ranks(4, nodes=2, gpus_per_rank=2), 2, Width(2, 8, 2)),
    ],
)
def test_the_slots_of_a_replica(ranks: Ranks, replicas_per_gpu: int, expected: Width) -> None:
    assert width_of(ranks, replicas_per_gpu) == expected
    assert width(ranks, replicas_per_gpu) == expected.slots


def test_a_rank_without_a_gpu_takes_one_slot() -> None:
    assert [slots_per_rank(0, 4), slots_per_rank(1, 4), slots_per_rank(2, 1)] == [1, 4, 2]


SITE = Policy(max_pilots=1, slots=8, idle_s=1.0, nodes=2)
GPUS = Policy(max_pilots=1, slots=16, idle_s=1.0, nodes=2, gpus_per_node=4, replicas_per_gpu=2)


@pytest.mark.parametrize(
    ("policy", "ranks", "told"),
    [
        (SITE, Ranks(4), ""),
        (SITE, Ranks(8, nodes=2), ""),
        (
            SITE,
            Ranks(8),
            "ranks.size 8 on 1 node takes 8 slots of each, and a node has pilots.slots 4: use fewer ranks",
        ),
        (SITE, Ranks(4, nodes=4), "ranks.nodes 4: a pilot has pilots.nodes 2, and a replica is in one pilot; raise"),
        (SITE, Ranks(1, gpus_per_rank=1), "ranks.gpus_per_rank 1 gives each rank whole GPUs, for which pilots.slots"),
        (replace(SITE, gpus_by_directive=True), Ranks(2, gpus_per_rank=2), ""),
        (replace(SITE, gpus_by_directive=True), Ranks(2, gpus_per_rank=4), "ranks.size 2, each with 4 GPUs, on 1 node"),
        (replace(GPUS, gpus_by_directive=True), Ranks(8, gpus_per_rank=1), "ranks.size 8, each with 1 GPU, on 1 node"),
        (GPUS, Ranks(4, gpus_per_rank=1), ""),
        (GPUS, Ranks(4, gpus_per_rank=2), "ranks.size 4, each with 2 GPUs, on 1 node takes 16 slots of each, and a"),
    ],
)
def test_what_fits_into_no_pilot_is_told(policy: Policy, ranks: Ranks, told: str) -> None:
    found = misfit(ranks, policy)
    assert found.startswith(told)
    assert bool(found) == bool(told)


def test_a_room_of_which_too_much_is_taken_has_room_for_nothing() -> None:
    room = Room(4, 2)
    for _ in range(3):
        room.take(Width(1, 2), ("n1",))
    assert room.left == -2
    assert not room.fits(ONE)
    assert room.count(ONE) == 0
    assert not room.fits(Width(1, 2)), "one node is free, and the pilot is not"


def test_known_nodes_come_before_what_is_assumed() -> None:
    room = Room(8, 4)
    assert room.take(Width(1, 2), ("n2",), [(2, 3)]) == {0: [2, 3]}
    assert room.take(Width(1, 2), ("n1",)) == {1: [0, 1]}
    assert room.take(Width(1, 1), ("n2",)) == {0: [0]}
    assert room.free == [1, 2]
    assert room.take(Width(2, 1), ("n2",)) == {0: [1], 1: [2]}
    assert room.free == [0, 1]


WIDTHS = st.builds(Width, st.integers(1, 3), st.integers(1, 4), st.just(1)) | st.builds(
    Width, st.integers(1, 3), st.sampled_from([2, 4]), st.just(2)
)


@given(st.dictionaries(WIDTHS, st.integers(0, 9)), st.lists(st.integers(0, 3), max_size=4))
def test_no_more_is_packed_than_fits(load: dict[Width, int], nodes: list[int]) -> None:
    rooms = [Room(4 * each, 4) for each in nodes]
    left = packed(load, rooms)
    assert all(0 <= left[width] <= count for width, count in load.items())
    assert slots_of(load) - slots_of(left) == sum(4 * each for each in nodes) - sum(room.left for room in rooms)
    assert all(room.left >= 0 and min(room.free, default=0) >= 0 for room in rooms)
    assert not any(room.fits(width) for width, count in left.items() if count for room in rooms)


@given(st.dictionaries(WIDTHS, st.integers(1, 3), min_size=1))
def test_the_nodes_that_a_load_needs_hold_it_and_fewer_do_not(load: dict[Width, int]) -> None:
    few = nodes_for(load, 100, 4)
    assert not packed(load, [Room(4 * few, 4)])
    assert few == max(width.nodes for width in load) or packed(load, [Room(4 * (few - 1), 4)])
