"""Batches whose requests are not what their headers say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from hpcserve.errors import ProtocolError, ServableError
from hpcserve.replica.executor import Executor
from hpcserve.servable.api import SampleError
from hpcserve.servable.loaded import Loaded, Method
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.wire.messages import EMPTY_MAP
from hpcserve.wire.tensor import Frame, pack


def double(inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> object:
    assert not parameters
    if (inputs["x"] < 0).any():
        raise ServableError("go failed") from SampleError(-inputs["x"].min() - 1, "odd")
    return {"y": 2 * inputs["x"]}


@pytest.fixture
def executor() -> Executor:
    spec = MethodSpec(
        inputs=(TensorDecl(name="x", dtype="int64", shape=(-1,)),),
        outputs=(TensorDecl(name="y", dtype="int64", shape=(-1,)),),
        batchable=True,
    )
    return Executor(Loaded({"go": Method(spec, double)}), "go")


def request(*values: int, cut: bool = False) -> tuple[msgspec.Raw, list[Frame]]:
    """A request with these samples, whose frame may be too short."""
    specs, frames = pack({"x": np.array(values, np.int64)})
    return specs, [bytes(frame)[:3] if cut else frame for frame in frames]


@pytest.mark.parametrize("broken", [{0}, {1}, {0, 1, 2}])
def test_a_request_with_broken_frames_fails_alone(executor: Executor, broken: set[int]) -> None:
    requests = [request(number, number, cut=number in broken) for number in range(3)]
    outcomes, too_many = executor.run_together("go", requests, EMPTY_MAP, lambda: False)
    assert too_many == 0
    for number, outcome in enumerate(outcomes):
        if number in broken:
            assert outcome.error is not None
            assert outcome.error.code == ProtocolError.code
        else:
            assert outcome.error is None
            assert bytes(outcome.frames[0]) == np.full(2, 2 * number, np.int64).tobytes()


@pytest.mark.parametrize(("index", "told"), [(0, "sample 0 of the request: odd"), (1, "sample 1 of the request: odd")])
def test_the_caller_is_told_which_sample_is_at_fault(executor: Executor, index: int, told: str) -> None:
    specs, frames = request(-index - 1, 5)
    error = executor.run("go", specs, frames, EMPTY_MAP).error
    assert error is not None
    assert error.message == told


def test_the_caller_is_not_told_of_a_sample_that_is_not_there(executor: Executor) -> None:
    specs, frames = request(-3, 5)
    error = executor.run("go", specs, frames, EMPTY_MAP).error
    assert error is not None
    assert error.message == "go failed"
