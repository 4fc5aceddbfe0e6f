"""Collective ranks on real MPI: what they compute together, and what becomes of them when one fails."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve.errors import InvalidInput, ServableError
from hpcserve.wire import messages as wire
from hpcserve.wire.jsonvalue import Json
from tests.integration.rank_rig import PATIENCE_S, Group, place

X = np.arange(5)


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    """Four ranks, for the tests that leave them well."""
    directory = place()
    found = Group("chorus", directory)
    yield found.ready()
    found.close()
    shutil.rmtree(directory)


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Group]:
    """Four ranks that do not outlive the test."""
    found = Group("chorus", tmp_path, hang_grace_s=0.1)
    yield found.ready()
    found.close()


def test_all_ranks_get_the_input_and_rank_0_answers(group: Group) -> None:
    assert group.call("total", x=X)["y"].tolist() == (10 * X).tolist()
    large = np.arange(3_000_000)
    assert np.array_equal(group.call("total", x=large)["y"], 10 * large)


def test_texts_values_and_parameters_reach_all_ranks(group: Group) -> None:
    found = group.call("told", {"a": 1}, text=np.array([b"x", b"yz"], object), value=Json({"k": [1]}))["all"]
    assert found == [[rank, ["x", "yz"], {"k": [1]}, {"a": 1}] for rank in range(4)]


def test_a_stream_is_made_by_all_ranks(group: Group) -> None:
    assert [each["y"].tolist() for each in group.stream("counts", x=X)] == [[4 * each] for each in X]


def test_what_rank_0_refuses_the_others_do_not_hear_of(group: Group) -> None:
    with pytest.raises(InvalidInput, match="method 'total' takes no parameters; given: 'a'"):
        group.call("total", {"a": 1}, x=X)
    with pytest.raises(InvalidInput, match="method 'totals' takes no parameters; given: 'a'"):
        group.stream("totals", {"a": 1}, x=X)
    with pytest.raises(InvalidInput, match="call it by stream"):
        group.call("totals", x=X)
    with pytest.raises(InvalidInput, match=r"call it by infer\(\) instead"):
        group.stream("total", x=X)
    assert group.call("total", x=X)["y"].tolist() == (10 * X).tolist()
    assert [each["y"].tolist() for each in group.stream("totals", x=X)] == [[4 * each] for each in X]


def test_a_rank_without_room_for_the_input_fails_the_request_alone(group: Group) -> None:
    large = np.ones(12 << 20, np.int64)
    group.call("room", {"2": 20}, x=X)
    with pytest.raises(ServableError, match="rank 2: out of memory"):
        group.call("total", x=large)
    with pytest.raises(ServableError, match="rank 2: out of memory"):
        group.stream("totals", x=large)
    group.call("room", x=X)
    assert group.call("total", x=large)["y"][-1] == 10


def test_a_call_that_raises_on_all_ranks_fails_alone(group: Group) -> None:
    with pytest.raises(ServableError, match="^method 'troubled' failed: ValueError: rank 0 cannot") as raised:
        group.call("troubled", {"raise": [0, 1, 2, 3]}, x=X)
    assert "chorus.py" in str(raised.value.remote_traceback)
    assert group.call("total", x=X)["y"].tolist() == (10 * X).tolist()


def test_what_a_call_that_raised_on_all_ranks_has_sent_no_later_one_receives(group: Group) -> None:
    for factor in range(1, 4):
        with pytest.raises(ServableError, match="ValueError: rank 0 cannot"):
            group.call("sums", {"raise": [0], "then": [1, 2, 3]}, x=100 * X)
        assert group.call("sums", x=factor * X)["y"].tolist() == (10 * factor * X).tolist()
    assert [each["y"].tolist() for each in group.stream("sums_each", x=X)] == [[10 * each] for each in X]


@pytest.mark.parametrize(
    ("method", "who", "told"),
    [
        ("sums", [0], "ranks 1, 2, 3 have sent what rank 0 has not received"),
        ("spreads", [1], "rank 0 has sent what rank 1 has not received"),
    ],
)
def test_a_call_that_raises_on_some_ranks_is_answered_and_ends_the_group(
    lost: Group, method: str, who: list[int], told: str
) -> None:
    with lost.held():
        breaks = lost.send(method, {"raise": who}, x=X)
        after = lost.send(method, x=X)
    with pytest.raises(ServableError, match=f"^rank {who[0]}: method .* ValueError: rank {who[0]} cannot"):
        lost.result(breaks)
    lost.last_words()
    assert after not in lost.results, told
    assert f"rank {who[0]} raised in method '{method}' and the others returned" in lost.log.read_text()


def test_a_stream_that_raises_on_some_ranks_is_answered_and_ends_the_group(lost: Group) -> None:
    with pytest.raises(ServableError, match="ValueError: rank 0 cannot"):
        lost.stream("sums_each", {"raise": [0]}, x=X)
    lost.gone()


def test_a_stream_that_fails_on_all_ranks_leaves_them_well(group: Group) -> None:
    with pytest.raises(ServableError, match="rank 0 cannot go on"):
        group.stream("counts", {"fail": {str(rank): 2 for rank in range(4)}}, x=X)
    assert len(group.stream("counts", x=X)) == len(X)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"raise": [0], "wait": [1, 2, 3]}, "^rank 0: .*rank 0 cannot"),
        ({"raise": [2], "wait": [0, 1, 3]}, "rank 2: .*rank 2 cannot"),
        ({"raise": [1], "hang": [3]}, "rank 1: .*rank 1 cannot"),
    ],
    ids=["the others are stuck", "rank 0 is stuck", "one hangs"],
)
def test_a_rank_that_raises_while_others_wait_fails_the_request_and_ends_the_group(
    lost: Group, parameters: dict[str, list[int]], told: str
) -> None:
    with pytest.raises(ServableError, match=told):
        lost.call("troubled", parameters, x=X)
    lost.gone()


def test_of_several_requests_none_fails_for_another_that_broke_the_group(lost: Group) -> None:
    lost.joins("troubled_batch", 5, share=5)
    before = len(lost.noted("troubled_batch"))
    with lost.held():
        sent = [lost.send("troubled_batch", x=np.array(each)) for each in ([1, 2], [3, -1], [4])]
    lost.last_words()
    assert lost.noted("troubled_batch")[before:] == [5]
    assert not lost.results.keys() & set(sent), "the broker has them run one by one elsewhere"


@pytest.mark.parametrize("who", [0, 1], ids=["the others wait for rank 0", "rank 0 waits"])
def test_a_batch_that_had_no_memory_and_broke_the_group_is_told_of(lost: Group, who: int) -> None:
    lost.joins("crowded", 5, share=5)
    with lost.held():
        sent = [lost.send("crowded", x=np.array(each)) for each in ([1, 2], [3, -1 - who], [4])]
    lost.last_words()
    assert lost.fits == [wire.Fits("v1", "crowded", (("x", "int64", ()),), 2)]
    assert not lost.results.keys() & set(sent), "the broker has them run one by one elsewhere"


def test_no_stream_and_no_request_is_told_the_error_of_another_that_broke_the_group(lost: Group) -> None:
    stream = lost.send("counts", {}, x=np.arange(1_000_000), window=wire.Window(1 << 30, 1 << 40))
    while stream not in lost.items:
        lost.take()
    with lost.held():
        breaks = lost.send("troubled", {"raise": [2], "hang": [3]}, x=X)
        after = lost.send("total", x=X)
    with pytest.raises(ServableError, match="rank 2 cannot"):
        lost.result(breaks)
    lost.last_words()
    assert not lost.results.keys() & {stream, after}


@pytest.mark.parametrize(
    "parameters", [{"die": [2], "wait": [0, 1, 3]}, {"hang": [2], "wait": [0, 1, 3]}], ids=["dies", "hangs"]
)
def test_a_rank_that_dies_or_hangs_ends_the_group(lost: Group, parameters: dict[str, list[int]]) -> None:
    lost.send("troubled", parameters, x=X, remaining_ms=500)
    lost.gone()


@pytest.mark.parametrize("told", [0, 1])
def test_a_rank_that_is_told_to_end_does_within_mpi_too(lost: Group, told: int) -> None:
    """Where no signal handler of Python's runs: it waits in a barrier for one that hangs."""
    lost.send("troubled", {"hang": [3], "wait": [0, 1, 2]}, x=X)
    until = time.monotonic() + PATIENCE_S
    while not (lost.notes / f"waits-{told}").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(int((lost.notes / f"setup-{told}").read_text()), signal.SIGTERM)
    lost.gone()


def test_a_stream_that_does_not_end_on_all_ranks_at_once_fails_and_ends_the_group(lost: Group) -> None:
    most = {str(rank): 2 if rank == 3 else 1 for rank in range(4)}
    with pytest.raises(ServableError, match="its stream ended on rank 0 and not on rank 3"):
        lost.stream("lengths", {"most": most}, x=X)
    lost.gone()


def test_an_orderly_end_tears_every_rank_down(tmp_path: Path) -> None:
    group = Group("chorus", tmp_path)
    try:
        group.ready()
        assert group.end() == 0
    finally:
        group.close()
    assert len(list(group.notes.glob("teardown-*"))) == 4


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_whose_setup_fails_is_told_of(tmp_path: Path, rank: int) -> None:
    """The others wait for it in a barrier, rank 0 too."""
    group = Group("chorus", tmp_path, variables={"FAILS": str(rank)})
    try:
        said = group.says()
        assert said.state == "failed"
        assert f"ValueError: no weights for rank {rank}" in said.cause
        assert said.cause.startswith(f"rank {rank}: ")
        assert "chorus.py" in said.traceback
        assert group.ended() == 3
    finally:
        group.close()
