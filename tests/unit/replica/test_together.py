"""What becomes of the requests of a batch that fails: nobody fails for another."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.replica.broken import DeviceBroken
from hpcserve.replica.together import Request, run_together
from hpcserve.servable.api import SampleError


class Model:
    """Doubles its samples; ``bad`` values make it raise, and so do more than ``room`` samples."""

    def __init__(self, bad: Sequence[int] = (), room: int = 1000, *, tells: bool = False) -> None:
        self.bad = set(bad)
        self.room = room
        self.tells = tells
        self.calls: list[int] = []

    def __call__(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        values = [int(value) for request in requests for value in request["x"]]
        self.calls.append(len(values))
        fault = self._fault(values)
        if fault is not None:
            raise ServableError(f"failed: {fault}", remote_traceback="where") from fault
        return [{"y": 2 * request["x"]} for request in requests]

    def _fault(self, values: list[int]) -> Exception | None:
        if len(values) > self.room:
            return MemoryError("no room")
        for index, value in enumerate(values):
            if value in self.bad:
                return SampleError(index, f"{value} is bad") if self.tells else ValueError(f"{value} is bad")
        return None


def requests_of(*counts: int) -> list[dict[str, Any]]:
    """Requests with so many samples, which are numbered through."""
    bounds = np.cumsum((0, *counts))
    return [{"x": np.arange(a, b)} for a, b in itertools.pairwise(bounds)]


def run(model: Model, *counts: int) -> tuple[list[Any], int]:
    return run_together(requests_of(*counts), model, list(counts))


def test_a_batch_is_one_call() -> None:
    model = Model()
    results, too_many = run(model, 2, 3, 1)
    assert [list(each["y"]) for each in results] == [[0, 2], [4, 6, 8], [10]]
    assert model.calls == [6]
    assert too_many == 0


def test_of_no_requests_nothing_is_run() -> None:
    model = Model()
    assert run(model) == ([], 0)
    assert not model.calls


@given(
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=12),
    bad=st.sets(st.integers(0, 35), max_size=4),
    tells=st.booleans(),
)
def test_only_the_requests_with_a_bad_sample_fail(counts: list[int], bad: set[int], tells: bool) -> None:  # noqa: FBT001
    results, _ = run(Model(sorted(bad), tells=tells), *counts)
    for request, result in zip(requests_of(*counts), results, strict=True):
        mine = bad & set(request["x"].tolist())
        assert isinstance(result, HpcserveError) == bool(mine)
        if mine:
            assert result.remote_traceback == "where"
        else:
            assert list(result["y"]) == list(2 * request["x"])


def test_a_named_sample_costs_one_call_more() -> None:
    model = Model([5], tells=True)
    results, _ = run(model, 2, 3, 4, 1)
    assert model.calls == [10, 6]
    assert results[2].message == "sample 0 of the request: 5 is bad"


def test_a_request_is_told_the_place_in_its_own_inputs() -> None:
    assert run(Model([6], tells=True), 2, 3, 4)[0][2].message.startswith("sample 1 of the request")


@pytest.mark.parametrize("index", [-1, 5, 1000])
def test_a_sample_that_is_not_there_convicts_no_batch_mate(index: int) -> None:
    def wrong(requests: Sequence[Request]) -> list[dict[str, Any]]:
        if any(4 in request["x"] for request in requests):
            raise ServableError("failed") from SampleError(index, "?")
        return [{"y": request["x"]} for request in requests]

    results, _ = run_together(requests_of(2, 2, 1), wrong, [2, 2, 1])
    assert [isinstance(each, ServableError) for each in results] == [False, False, True]


def test_many_named_samples_do_not_cost_a_call_each() -> None:
    bad = list(range(0, 1024, 2))
    model = Model(bad, tells=True)
    results, _ = run(model, *[1] * 1024)
    assert [isinstance(each, ServableError) for each in results] == [n % 2 == 0 for n in range(1024)]
    assert sum(model.calls) < 1024 * 16


def test_the_index_of_a_sample_is_a_number() -> None:
    assert SampleError(np.int64(3), "bad").index == 3
    with pytest.raises(TypeError):
        SampleError("row 3", "bad")  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [1, 2, 5])
def test_out_of_memory_halves_until_it_fits(room: int) -> None:
    model = Model(room=room)
    results, too_many = run(model, *[1] * 16)
    assert [list(each["y"]) for each in results] == [[2 * n] for n in range(16)]
    assert room < too_many <= 2 * room + 1


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_lack_of_memory_that_a_library_tells_in_words_is_one(fault: Exception) -> None:
    def run(requests: Sequence[Request]) -> list[dict[str, Any]]:
        if len(requests) > 2:
            raise ServableError("failed") from fault
        return [{} for _ in requests]

    assert run_together(requests_of(*[1] * 8), run, [1] * 8) == ([{}] * 8, 4)


def test_what_a_failed_call_had_in_its_hands_is_free_before_the_halves_run() -> None:
    held: list[weakref.ref[np.ndarray[Any, Any]]] = []

    def run(requests: Sequence[Request]) -> list[dict[str, Any]]:
        assert [each for each in held if each() is not None] == []
        large = np.zeros(1000)
        held.append(weakref.ref(large))
        if len(requests) > 1:
            try:
                bytearray(sys.maxsize)
            except MemoryError as error:
                raise ServableError("failed") from error
        return [{"y": requests[0]["x"]}]

    results, too_many = run_together(requests_of(1, 1, 1, 1), run, [1] * 4)
    assert [int(each["y"][0]) for each in results if not isinstance(each, HpcserveError)] == [0, 1, 2, 3]
    assert (too_many, len(held)) == (2, 7)


def test_a_broken_device_is_no_answer_to_anybody() -> None:
    calls = []

    def run(requests: Sequence[Request]) -> list[dict[str, Any]]:
        calls.append(len(requests))
        raise ServableError("failed") from RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(DeviceBroken, match="unspecified launch failure"):
        run_together(requests_of(1, 1), run, [1, 1])
    assert calls == [2], "what followed would fail too, and convict everybody"


def test_a_request_for_which_there_is_no_room_alone_fails_alone() -> None:
    results, too_many = run(Model(room=3), 1, 5, 1)
    assert [isinstance(each, HpcserveError) for each in results] == [False, True, False]
    assert too_many == 0  # smaller batches would not help it
