from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.imagecopies import Copy, groups, to_remove

OLD = Copy(name="old", size_bytes=30, used_s=1.0)
NEW = Copy(name="new", size_bytes=20, used_s=2.0)
BUSY = Copy(name="busy", size_bytes=40, used_s=0.0, busy=True)


@pytest.mark.parametrize(
    ("copies", "size", "limit", "free", "removed"),
    [
        ((), 10, 100, 100, ()),
        ((), 10, 9, 100, None),  # larger than all may be
        ((), 10, 100, 9, None),  # and than the disk
        ((OLD, NEW), 50, 100, 100, ()),
        ((NEW, OLD), 51, 100, 100, ("old",)),
        ((NEW, OLD), 81, 100, 100, ("old", "new")),
        ((NEW, OLD), 101, 100, 1000, None),
        ((OLD, NEW), 10, 100, 0, ("old",)),  # the disk is full of what is not ours
        ((OLD, NEW), 40, 100, 0, ("old", "new")),
        ((OLD, NEW), 60, 100, 0, None),
        ((BUSY, OLD), 40, 100, 100, ("old",)),  # though the other was wanted before
        ((BUSY, OLD), 61, 100, 100, None),
    ],
)
def test_what_is_removed(
    copies: tuple[Copy, ...], size: int, limit: int, free: int, removed: tuple[str, ...] | None
) -> None:
    assert to_remove(copies, size_bytes=size, limit_bytes=limit, free_bytes=free) == removed


COPIES = st.lists(
    st.builds(
        Copy,
        name=st.uuids().map(str),
        size_bytes=st.integers(0, 50),
        used_s=st.floats(0, 9),
        busy=st.booleans(),
    ),
    max_size=8,
)


@given(COPIES, st.integers(1, 99), st.integers(1, 200), st.integers(0, 200))
def test_there_is_room_afterwards_and_nothing_busy_is_removed(
    copies: list[Copy], size: int, limit: int, free: int
) -> None:
    removed = to_remove(copies, size_bytes=size, limit_bytes=limit, free_bytes=free)
    idle = [copy for copy in copies if not copy.busy]
    going = idle if removed is None else [copy for copy in copies if copy.name in removed]
    left_bytes = sum(copy.size_bytes for copy in copies) - sum(copy.size_bytes for copy in going)
    fits = left_bytes + size <= limit and size <= free + sum(copy.size_bytes for copy in going)
    assert fits == (removed is not None)
    assert all(copy in idle for copy in going)
    if removed is not None:
        oldest = sorted(copy.used_s for copy in idle)[: len(going)]
        assert sorted(copy.used_s for copy in going) == oldest


@pytest.mark.parametrize(
    ("wanted", "together", "made"),
    [
        ((), True, ()),
        ("b", True, (("a", "b"),)),  # a reads it
        ("a", True, (("a",),)),
        ("cb", True, (("a", "b", "c"),)),
        ("abc", True, (("a", "b", "c"),)),
        ("abc", False, (("a",), ("b",), ("c",))),
        ("c", False, (("c",),)),
        ("x", True, ()),  # a node that was lost
    ],
)
def test_nodes_in_groups(wanted: str, *, together: bool, made: tuple[tuple[str, ...], ...]) -> None:
    assert groups(wanted, "abc", together=together) == made
