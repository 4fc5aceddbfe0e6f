"""Groups that MPI has not made as the agent asked, and servables of one rank that ask for a communicator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.integration.rank_rig import ROOT, Group, group_command


def test_a_group_of_another_size_is_never_ready_and_says_so(tmp_path: Path) -> None:
    group = Group("divided", tmp_path, size=2, of=4)
    try:
        said = group.says()
        assert said.state == "failed"
        assert said.cause.startswith("MPI has made a group of 2 processes on ")
        assert "where 4 were asked for" in said.cause
        assert group.ended() == 3
    finally:
        group.close()


def test_ranks_that_mpi_starts_one_by_one_are_never_ready(tmp_path: Path) -> None:
    """As where a container hides the launcher's variables: each is rank 0 of 1."""
    replica = " ".join(group_command(4)[3:])
    strip = 'for name in $(env | sed -n "s/^\\(PMI[^=]*\\)=.*/\\1/p"); do unset "$name"; done; exec '
    group = Group("divided", tmp_path, command=[*group_command(4)[:3], "sh", "-c", strip + replica])
    try:
        said = group.says()
        assert said.state == "failed"
        assert said.cause.startswith("MPI has made a group of 1 process on ")
        assert "[mpi] of the site file" in said.cause
        assert group.ended() == 3
    finally:
        group.close()


def test_a_servable_of_one_rank_gets_a_communicator_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hpcserve.replica", "--node-slots", "1", "--ranks", "0"]
    group = Group("chorus", tmp_path, command=command)
    try:
        group.ready()
        assert group.call("total", x=np.arange(3))["y"].tolist() == [0, 1, 2]
        assert group.end() == 0
    finally:
        group.close()


@pytest.mark.parametrize("size", [1, 2])
def test_without_mpi4py_the_replica_says_what_is_missing(tmp_path: Path, size: int) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('no such thing')")
    path = f"{tmp_path}:{Path(__file__).resolve().parents[2]}"
    group = Group("chorus", tmp_path, size=size, variables={"PYTHONPATH": path})
    try:
        said = group.says()
        assert said.state == "failed"
        assert "MPI cannot be used: no such thing; the servable's environment needs mpi4py" in said.cause
        assert group.ended() == 3
    finally:
        group.close()


def test_rows_of_any_length_are_a_datatype() -> None:
    """With counts below 2³¹ everywhere, which is what MPI libraries before version 4 take."""
    program = """
import numpy as np
from mpi4py import MPI
from hpcserve.replica.mpi import CHUNK_BYTES, row_type

for size in (1, 10, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES, 5 * CHUNK_BYTES + 7):
    assert row_type(MPI, size).Get_size() == size == row_type(MPI, size).Get_extent()[1], size
for size, chunk in ((10, 4), (8, 4), (3, 4), (4, 4)):
    given = np.arange(3 * size, dtype=np.uint8)
    found = np.zeros_like(given)
    row = row_type(MPI, size, chunk)
    MPI.COMM_SELF.Sendrecv([given, 3, row], 0, recvbuf=[found, 3, row])
    assert np.array_equal(given, found), (size, chunk)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_datatypes_of_rows_are_not_kept_for_ever() -> None:
    program = """
from mpi4py import MPI
from hpcserve.replica.mpi import MOST_ROWS, Rows

rows = Rows(MPI)
first, second = rows.of(1), rows.of(2)
for size in range(3, MOST_ROWS + 2):
    assert rows.of(1) is first
    assert rows.of(size).Get_size() == size
assert second == MPI.DATATYPE_NULL, "it was freed"
assert rows.of(2).Get_size() == 2
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
