"""Where the ranks of a replica go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.pilot.ranks import Need, Place, need_of, never, place, waits
from hpcserve.servable.manifest import Ranks

Slots = dict[str, set[int]]


@pytest.mark.parametrize(
    ("need", "held", "expected"),
    [
        (Need(), {"a": {0}, "b": set()}, Place(("b",), ((0,),))),
        (Need(), {"a": {1}, "b": {0}}, Place(("a",), ((0,),))),
        (Need(), {"a": {0, 1, 2, 3}}, Place(("a",), ((4,),))),
        (Need(), {}, None),
        (Need(nodes=2, per_node=2), {"a": set(), "b": set()}, Place(("a", "b"), ((0,), (1,), (0,), (1,)))),
        (Need(nodes=2, per_node=2), {"a": {0, 2}, "b": {3}}, Place(("a", "b"), ((1,), (3,), (0,), (1,)))),
        (Need(nodes=2, per_node=2), {"a": {0, 1, 2}, "b": set()}, None),
        (Need(nodes=2, per_node=2), {"a": set()}, None),
        (Need(per_node=2), {"a": set(), "b": {0}, "c": {0, 3}}, Place(("c",), ((1,), (2,)))),
        (Need(nodes=2, per_node=1), {"a": {0}, "b": set(), "c": {0}}, Place(("a", "b"), ((1,), (0,)))),
        (Need(per_node=2, gpus=2), {"a": set()}, Place(("a",), ((0, 1), (2, 3)))),
        (Need(per_node=1, gpus=1, per_gpu=2), {"a": {0}, "b": {0, 3}}, Place(("a",), ((2, 3),))),
        (Need(per_node=1, gpus=1, per_gpu=2), {"a": {0, 3}}, None),
        (Need(per_node=1, gpus=2, per_gpu=2), {"a": {5}, "b": set()}, Place(("a",), ((0, 1, 2, 3),))),
    ],
)
def test_a_table_of_places(need: Need, held: Slots, expected: Place | None) -> None:
    assert place(need, held, 4) == expected


def test_the_command_line_says_what_each_rank_holds() -> None:
    found = Place(("a", "b"), ((0, 1), (2, 3), (0, 1), (4, 5)))
    assert found.arguments(8) == ("--node-slots", "8", "--ranks", "0,1:2,3:0,1:4,5")
    assert (found.per_node, found.held("b"), found.held("c")) == (2, {0, 1, 4, 5}, set())


def test_what_a_manifest_says_is_what_is_needed() -> None:
    ranks = Ranks(size=8, nodes=2, gpus_per_rank=1)
    assert need_of(ranks, 3) == Need(nodes=2, per_node=4, gpus=1, per_gpu=3)
    assert (need_of(ranks, 3).slots, need_of(Ranks(), 3).slots) == (12, 1)


@pytest.mark.parametrize(
    ("need", "nodes", "slots", "expected"),
    [
        (Need(), 1, 1, ""),
        (Need(nodes=2, per_node=4), 2, 4, ""),
        (Need(nodes=2, per_node=4), 1, 4, "it takes 4 slots on each of 2 nodes, and this pilot has 1 node of 4 slots"),
        (Need(per_node=2), 3, 1, "it takes 2 slots on one node, and this pilot has 3 nodes of 1 slot"),
        (Need(gpus=1, per_gpu=2), 1, 1, "it takes 2 slots on one node, and this pilot has 1 node of 1 slot"),
    ],
)
def test_what_can_never_be_is_told(need: Need, nodes: int, slots: int, expected: str) -> None:
    told = never(need, nodes, slots)
    assert told.partition(":")[0] == expected
    assert not told or "lower [ranks] of its servable, or raise pilots.nodes or pilots.slots" in told


def test_what_waits_says_for_what() -> None:
    told = waits(Need(nodes=2, per_node=2), {"a": {0, 1, 2, 7}, "b": set()}, 4)
    assert told == "it waits for 2 slots on each of 2 nodes; free slots: 1 of a, 4 of b"
    assert "2 slots on one node, of 1 whole GPU;" in waits(Need(gpus=1, per_gpu=2), {"a": {1, 2}}, 4)


NEEDS = st.builds(
    Need,
    nodes=st.integers(1, 3),
    per_node=st.integers(1, 3),
    gpus=st.integers(0, 2),
    per_gpu=st.integers(1, 2),
)
HELD = st.dictionaries(st.sampled_from("abcd"), st.sets(st.integers(0, 7)), min_size=1)


@given(NEEDS, HELD)
def test_nothing_is_held_twice_and_an_empty_pilot_takes_all_that_it_ever_can(need: Need, held: Slots) -> None:
    found = place(need, held, 8)
    alone = place(need, {node: set() for node in held}, 8)
    assert (alone is None) == bool(never(need, len(held), 8))
    if found is None:
        return
    assert len(found.nodes) == need.nodes
    assert len(found.ranks) == need.nodes * need.per_node
    assert list(found.nodes) == [node for node in held if node in found.nodes], "in the order of the job"
    for node in found.nodes:
        assert len(found.held(node)) == need.slots
        assert found.held(node).isdisjoint(held[node])
        assert need.slots == need.nodes == 1 or found.held(node) <= set(range(8))


@given(NEEDS.filter(lambda need: need.slots * need.nodes > 1), HELD)
def test_one_that_finds_no_place_finds_one_when_enough_is_free(need: Need, held: Slots) -> None:
    taken = {node: set(slots) for node, slots in held.items()}
    found = place(need, taken, 8)
    while found is None and any(taken.values()):
        fullest = max(taken, key=lambda node: len(taken[node]))
        taken[fullest].clear()
        found = place(need, taken, 8)
    assert (found is None) == bool(never(need, len(held), 8))
