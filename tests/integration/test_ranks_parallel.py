"""Data-parallel ranks on real MPI: shares, dtypes, errors, ends."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from hpcserve.errors import InvalidOutput, ServableError
from tests import nvml
from tests.integration.rank_rig import PATIENCE_S, Group, place

IDLE_S = 3.0


def cpu_s(pid: int) -> float:
    """The processor time that a process has used, in seconds. Source: proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    """Four ranks, for the tests that leave them well."""
    directory = place()
    found = Group("divided", directory)
    yield found.ready()
    found.close()
    shutil.rmtree(directory)


@pytest.mark.parametrize("samples", [0, 1, 2, 3, 4, 5, 9, 10, 103])
def test_shares_are_as_even_as_can_be_and_come_back_in_order(group: Group, samples: int) -> None:
    found = group.call("who", x=np.arange(samples))
    each, more = divmod(samples, 4)
    counts = [each + (rank < more) for rank in range(4)]
    assert found["rank"].tolist() == np.repeat(range(4), counts).tolist()
    assert found["share"][:, 0].tolist() == np.repeat(counts, counts).tolist()


@pytest.mark.parametrize("dtype", ["float32", "uint8", "bfloat16", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (1000, 7), (4, 0), (11, 100_000)])
def test_every_sample_comes_back_as_it_was(group: Group, dtype: str, shape: tuple[int, int]) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    given = np.random.default_rng(1).integers(0, 256, shape).astype(kind)
    found = group.call(dtype, x=given)["y"]
    assert found.dtype == kind
    assert np.array_equal(found, given)


def test_texts_travel_too(group: Group) -> None:
    given = np.array([b"a", b"", b"b" * 5000, "ü".encode(), b"c"], object)
    assert group.call("upper", x=given)["y"].tolist() == [each.upper() * 4 for each in given]


def test_the_memory_of_an_input_is_not_used_again_while_somebody_keeps_it(group: Group) -> None:
    first, second = (np.full(4 << 20, number, np.int64) for number in (1, 2))
    group.call("keeps", x=first)
    assert group.call("keeps", x=second)["y"].tolist() == first.tolist()


def test_what_is_no_batch_runs_on_rank_0(group: Group) -> None:
    assert group.call("alone", x=np.arange(8))["rank"] == 0
    assert [each["rank"] for each in group.stream("items", x=np.arange(8))] == [0] * 8


@pytest.mark.parametrize("fault", [0, 3, 4, 9])
def test_a_sample_error_names_the_sample_of_the_request(group: Group, fault: int) -> None:
    given = np.arange(10)
    given[fault] = -1
    with pytest.raises(ServableError, match=f"sample {fault} of the request: the value -1") as raised:
        group.call("troubled", x=given)
    assert "SampleError" in str(raised.value.remote_traceback)


def test_requests_that_are_joined_fail_each_for_itself(group: Group) -> None:
    given = [[1, 2, 3], [4, -1], [5], [6, -2, 7], [8]]
    group.joins("troubled", 10, share=3)
    before = len(group.noted("troubled"))
    with group.held():
        sent = [group.send("troubled", x=np.array(each)) for each in given]
    for values, request in zip(given, sent, strict=True):
        if -1 in values:
            with pytest.raises(ServableError, match=f"sample {values.index(-1)} of the request"):
                group.result(request)
        elif -2 in values:
            with pytest.raises(ServableError, match="ValueError: minus two"):
                group.result(request)
        else:
            assert group.result(request)["y"].tolist() == [2 * each for each in values]
    assert group.noted("troubled")[before] == 3, "all ten samples came together"


def test_a_sample_that_rank_0_has_not_convicts_nobody(group: Group) -> None:
    """Of eight samples rank 0 has two, and means a third."""
    group.joins("troubled", 8, share=2)
    with group.held():
        sent = [group.send("troubled", {"outside": 0}, x=np.arange(2)) for _ in range(4)]
    for request in sent:
        assert group.result(request)["y"].tolist() == [0, 2]
    with pytest.raises(ServableError, match="SampleError: one that this rank has not"):
        group.call("troubled", {"outside": 0}, x=np.arange(8))


def test_without_memory_for_what_the_others_have_the_request_fails_alone(group: Group) -> None:
    """Rank 0 has room for its own 64 MiB, which it has to copy, and not for as many of each other."""
    given = np.array([b"a", b"b", b"c", b"d"], object)
    with pytest.raises(ServableError, match="out of memory"):
        group.call("long", {"mb": 64, "room_mb": {"0": 280}}, x=given)
    assert group.call("long", x=given)["y"].tolist() == given.tolist()
    assert group.call("who", x=np.arange(8))["rank"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_rank_without_room_for_its_share_fails_the_request_alone(group: Group) -> None:
    texts, large = np.array([b"a", b"b", b"c", b"d"], object), np.ones((4, 40 << 20), np.uint8)
    group.call("long", {"room_mb": {"2": 20}}, x=texts)
    with pytest.raises(ServableError, match="rank 2: out of memory"):
        group.call("uint8", x=large)
    with pytest.raises(ServableError, match="rank 2: out of memory"):
        group.call("long", x=np.array([bytes(40 << 20)] * 4, object))
    group.call("long", x=texts)
    assert np.array_equal(group.call("uint8", x=large)["y"], large)


@pytest.mark.parametrize("rank", range(4))
def test_a_rank_that_raises_fails_the_request_and_nothing_else(group: Group, rank: int) -> None:
    given = np.arange(8)
    given[2 * rank] = -2
    with pytest.raises(ServableError, match="method 'troubled' failed: ValueError: minus two") as raised:
        group.call("troubled", x=given)
    assert "divided.py" in str(raised.value.remote_traceback)
    assert group.call("troubled", x=np.arange(8))["y"].tolist() == list(range(0, 16, 2))


def test_rank_0_tells_of_the_gpus_of_all_ranks(tmp_path: Path) -> None:
    """Of how busy they are when they are first asked, and then as their answers tell. The driver is a stand-in."""
    directory = place()
    driver = nvml.build(tmp_path)
    seen = "GPU-aaaaaaaa-0000,GPU-bbbbbbbb-1111"
    found = Group(
        "divided", directory, size=2, variables={"LD_LIBRARY_PATH": f"{driver}", "CUDA_VISIBLE_DEVICES": seen}
    )
    try:
        found.ready()
        told: list[tuple[int | None, ...]] = []
        until = time.monotonic() + PATIENCE_S
        while len(told) < 2 and time.monotonic() < until:
            found.call("who", x=np.arange(4))
            found.take_all()
            busy = tuple(each.busy_percent for each in found.devices)
            if found.devices and (not told or told[-1][1] != busy[1]):
                assert [each.id for each in found.devices] == seen.split(",")
                told.append(busy)
            time.sleep(0.1)
        assert len(told) == 2, "the other rank's figure is a new one"
    finally:
        found.close()
        shutil.rmtree(directory)


def test_a_batch_without_memory_is_halved(group: Group) -> None:
    """Of 16 samples a rank has four, which is too much; of 8 two."""
    group.joins("troubled", 16, share=4)
    before = len(group.noted("troubled"))
    with group.held():
        sent = [group.send("troubled", {"most": 2}, x=np.arange(8)) for _ in range(2)]
    for request in sent:
        assert group.result(request)["y"].tolist() == list(range(0, 16, 2))
    assert group.noted("troubled")[before:] == [4, 2, 2]
    with pytest.raises(ServableError, match="MemoryError: 3 samples"):
        group.call("troubled", {"most": 2}, x=np.arange(9))


def test_how_many_samples_had_no_memory_is_remembered(group: Group) -> None:
    """A batch of twelve gives the last rank three."""
    until = time.monotonic() + PATIENCE_S
    while group.limits.get("small", 100) > 11 and time.monotonic() < until:
        sent = [group.send("small", x=np.arange(2)) for _ in range(50)]
        assert all(set(group.result(request)["share"].tolist()) <= {1, 2, 3} for request in sent)
        group.take_all()
    assert 1 <= group.limits["small"] <= 11


def test_shares_that_do_not_fit_together_are_told_of(group: Group) -> None:
    with pytest.raises(InvalidOutput, match=r"y: int64\[n, 1\] on rank 0 and y: int64\[n, 2\] on rank 1"):
        group.call("ragged", x=np.arange(4))
    with pytest.raises(InvalidOutput, match="called with 2 samples and returned 1 of 'y'"):
        group.call("short", x=np.arange(8))


def test_ranks_that_have_nothing_to_do_sleep(group: Group) -> None:
    group.call("who", x=np.arange(8))
    ranks = group.pids()
    assert len(ranks) == 4
    before, began_s = [cpu_s(pid) for pid in ranks], time.monotonic()
    time.sleep(IDLE_S)
    lasted_s = time.monotonic() - began_s
    used_s = [cpu_s(pid) - was_s for pid, was_s in zip(ranks, before, strict=True)]
    assert max(used_s) < 0.05 * lasted_s


def test_an_orderly_end_tears_every_rank_down(tmp_path: Path) -> None:
    group = Group("divided", tmp_path)
    try:
        group.ready()
        assert group.call("who", x=np.arange(4))["rank"].tolist() == [0, 1, 2, 3]
        assert group.end() == 0
    finally:
        group.close()
    assert sorted(each.name for each in group.notes.glob("teardown-*")) == [f"teardown-{rank}" for rank in range(4)]


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_that_is_killed_ends_the_group(tmp_path: Path, rank: int) -> None:
    group = Group("divided", tmp_path)
    try:
        group.ready()
        os.kill(int((group.notes / f"setup-{rank}").read_text()), signal.SIGKILL)
        group.gone()
    finally:
        group.close()


def test_a_group_that_is_told_to_end_does_not_wait_for_a_rank_that_is_lost(tmp_path: Path) -> None:
    """As Slurm tells the others of a death. The one that stands still cannot be told from a dead one."""
    group = Group("divided", tmp_path)
    try:
        group.ready()
        lost, told = (int((group.notes / f"setup-{rank}").read_text()) for rank in (3, 0))
        os.kill(lost, signal.SIGSTOP)
        group.send("who", x=np.arange(4))
        os.kill(told, signal.SIGTERM)
        group.gone()
    finally:
        group.close()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_whose_gpu_is_broken_ends_the_group_without_an_answer(tmp_path: Path, rank: int) -> None:
    group = Group("divided", tmp_path)
    try:
        group.ready()
        given = np.arange(4)
        given[rank] = -5
        request = group.send("troubled", x=given)
        group.gone()
        group.take_all()
        assert request not in group.results
        assert (
            "can compute no more in this process: RuntimeError: CUDA error: an illegal memory" in group.log.read_text()
        )
    finally:
        group.close()


def test_a_rank_that_hangs_ends_the_group_after_the_deadline(tmp_path: Path) -> None:
    group = Group("divided", tmp_path, hang_grace_s=0.1)
    try:
        group.ready()
        group.send("troubled", x=np.array([0, 0, 0, -4]), remaining_ms=500)
        group.gone()
    finally:
        group.close()
