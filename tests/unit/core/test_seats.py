"""One rule of where replicas go, for the controller that counts on it and for the agent that keeps it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.room import Room
from hpcserve.core.seats import seats
from hpcserve.core.width import ONE, Width
from hpcserve.pilot.ranks import Need, place

NODE_SLOTS = 4


@pytest.mark.parametrize(
    ("width", "free", "expected"),
    [
        (ONE, [1, 3, 3], [1]),
        (ONE, [-1, 0], [1]),
        (ONE, [], []),
        (Width(1, 2), [4, 1, 2, 2], [2]),
        (Width(1, 2), [1, 1], []),
        (Width(2, 2), [2, 4, 1, 3], [1, 3]),
        (Width(2, 2), [4, 1], []),
    ],
)
def test_a_table_of_seats(width: Width, free: list[int], expected: list[int]) -> None:
    assert seats(width, free) == expected


WIDTHS = st.builds(Width, st.integers(1, 3), st.integers(1, 4), st.just(1)) | st.builds(
    Width, st.integers(1, 3), st.sampled_from([2, 4]), st.just(2)
)


@given(st.lists(WIDTHS, max_size=12))
def test_where_the_controller_sees_room_the_agent_has_it_on_the_same_nodes(widths: list[Width]) -> None:
    names = ("n1", "n2", "n3")
    room, held = Room(NODE_SLOTS * len(names), NODE_SLOTS), {name: set[int]() for name in names}
    for width in widths:
        need = Need(nodes=width.nodes, per_node=width.per_node)
        if width.per_gpu > 1:
            need = Need(nodes=width.nodes, per_node=width.per_node // 2, gpus=1, per_gpu=2)
        found = place(need, held, NODE_SLOTS)
        if not room.fits(width):
            assert width == ONE or found is None
            continue
        assert found is not None
        taken = {names[number]: set(slots) for number, slots in room.take(width).items()}
        assert taken == {name: found.held(name) for name in found.nodes}
        for name in found.nodes:
            held[name] |= found.held(name)
