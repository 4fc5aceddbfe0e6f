"""Which processors each slot of a node computes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.affinity import Bound, Cpus, Processors, bound


def cpus(first: int, last: int) -> Cpus:
    return frozenset(range(first, last + 1))


ONE = Processors({0: cpus(0, 7)}, {})
TWO = Processors({0: cpus(0, 7), 1: cpus(8, 15)}, {})
# Two hardware threads of a core, as AMD numbers them.
TWINS = Processors(
    {0: cpus(0, 3) | cpus(8, 11), 1: cpus(4, 7) | cpus(12, 15)},
    {cpu: frozenset({cpu % 8, cpu % 8 + 8}) for cpu in range(16)},
)
FOUR = Processors({node: cpus(4 * node, 4 * node + 3) for node in range(4)}, {})
UNKNOWN: set[int] = set()


@pytest.mark.parametrize(
    ("processors", "near", "mine", "expected"),
    [
        # Near its GPUs, in whatever order these are.
        (TWO, [{1}, {0}], (0,), Bound(cpus(8, 15), 8)),
        (TWO, [{1}, {0}], (1,), Bound(cpus(0, 7), 8)),
        (TWO, [{0}, {0}, {1}, {1}], (1,), Bound(cpus(0, 7), 4)),
        (FOUR, [{3}, {2}, {1}, {0}], (0,), Bound(cpus(12, 15), 4)),
        (FOUR, [{0, 1}, {2, 3}], (1,), Bound(cpus(8, 15), 8)),
        # A rank of several slots.
        (FOUR, [{3}, {2}, {1}, {0}], (0, 2), Bound(cpus(12, 15) | cpus(4, 7), 8)),
        (TWO, [{0}, {0}, {1}, {1}], (2, 3), Bound(cpus(8, 15), 8)),
        (TWO, [{0}, {1}], (0, 1), None),
        # All GPUs on one NUMA node: the other one's processors are left to others.
        (TWO, [{0}, {0}], (1,), Bound(cpus(0, 7), 4)),
        # Cores count, not hardware threads.
        (TWINS, [{0}, {1}], (0,), Bound(cpus(0, 3) | cpus(8, 11), 4)),
        # Without GPUs, or where nobody knows: spread.
        (TWO, [UNKNOWN] * 2, (1,), Bound(cpus(8, 15), 8)),
        (TWO, [UNKNOWN] * 4, (1,), Bound(cpus(0, 7), 4)),
        (FOUR, [UNKNOWN] * 2, (1,), Bound(cpus(8, 15), 8)),
        (FOUR, [UNKNOWN] * 3, (2,), Bound(cpus(8, 15), 8)),
        (FOUR, [UNKNOWN] * 16, (5,), Bound(cpus(4, 7), 1)),
        (TWO, [{7}, {0}], (0,), Bound(cpus(0, 7), 4)),
        (TWO, [UNKNOWN] * 2, (3,), Bound(cpus(8, 15), 8)),
        # What is all is nothing to bind to.
        (TWO, [UNKNOWN], (0,), None),
        (TWO, [{0, 1}], (0,), None),
        (ONE, [{0}, {0}], (1,), None),
        (ONE, [UNKNOWN] * 16, (9,), None),
        (Processors({}, {}), [UNKNOWN] * 2, (0,), None),
        # A job that has processors of one NUMA node only.
        (Processors({0: cpus(0, 7), 1: frozenset()}, {}), [{0}, {1}], (1,), None),
    ],
)
def test_processors_near_a_ranks_gpus(
    processors: Processors, near: list[set[int]], mine: tuple[int, ...], expected: Bound | None
) -> None:
    assert bound(processors, near, mine) == expected


@given(
    st.dictionaries(st.integers(0, 7), st.sets(st.integers(0, 63), max_size=8), max_size=8),
    st.lists(st.sets(st.integers(0, 8), max_size=3), min_size=1, max_size=16),
    st.data(),
)
def test_a_rank_is_always_bound_to_some_that_it_may_use(
    by_node: dict[int, set[int]], near: list[set[int]], data: st.DataObject
) -> None:
    mine = data.draw(st.sets(st.integers(0, len(near) - 1), min_size=1))
    found = bound(Processors({node: frozenset(each) for node, each in by_node.items()}, {}), near, mine)
    if found is not None:
        assert set() < found.cpus < set().union(*by_node.values())
        assert 1 <= found.threads <= max(1, len(found.cpus))
