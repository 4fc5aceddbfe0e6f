"""Batches whose requests are not what their headers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
import numpy as np
import pytest

from hpcserve.errors import ProtocolError, ServableError
from hpcserve.replica.broken import DeviceBroken
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


# --- launched ---------------------------------------------------------------------------------------------------------


class Launches:
    """A servable whose calls end when, and as, a test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[Mapping[str, Any], Future[Any]]] = []
        tensor = {"dtype": "int64", "shape": (-1,)}
        spec = msgspec.convert(
            {
                "inputs": [tensor | {"name": "x"}],
                "outputs": [tensor | {"name": "y"}],
                "batchable": True,
                "launches": True,
            },
            MethodSpec,
        )
        self.executor = Executor(Loaded({"go": Method(spec, self._go)}), "go")

    def _go(self, inputs: Mapping[str, Any], _parameters: Mapping[str, Any]) -> Future[Any]:
        self.calls.append((inputs, Future()))
        if len(self.calls) > 1:  # the parts of a batch that failed are waited for
            self.calls[-1][1].set_result(double(inputs, {}))
        return self.calls[-1][1]

    def fail(self, error: BaseException) -> None:
        self.calls[0][1].set_exception(error)


def answers(outcomes: Sequence[Any]) -> list[list[int]]:
    return [np.frombuffer(bytes(outcome.frames[0]), np.int64).tolist() for outcome in outcomes]


@pytest.mark.parametrize("requests", [[request(1, 2)], [request(1, 2), request(3)]])
def test_a_flight_lands_with_the_answers_of_its_requests(requests: Any) -> None:
    servable = Launches()
    flight = launched(servable, requests)
    assert not flight.done()
    (inputs, future) = servable.calls[0]
    future.set_result(2 * inputs["x"])
    assert flight.done()
    outcomes, too_many = flight.land(lambda: False)
    assert answers(outcomes) == [[2, 4], [6]][: len(requests)]
    assert too_many == 0
    assert len(servable.calls) == 1


def test_a_flight_that_had_no_memory_is_run_in_halves() -> None:
    servable = Launches()
    flight = launched(servable, [request(1, 2), request(3)])
    servable.fail(MemoryError("no room"))
    assert flight.done()
    outcomes, too_many = flight.land(lambda: False)
    assert answers(outcomes) == [[2, 4], [6]]
    assert too_many == 3
    assert [len(inputs["x"]) for inputs, _ in servable.calls] == [3, 2, 1]


@pytest.mark.parametrize("requests", [[request(1, 2)], [request(1, 2), request(3)]])
def test_a_flight_on_a_broken_device_ends_the_replica(requests: Any) -> None:
    servable = Launches()
    flight = launched(servable, requests)
    servable.fail(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(DeviceBroken):
        flight.land(lambda: False)
    assert len(servable.calls) == 1, "nothing is run on it again"


def launched(servable: Launches, requests: Any) -> Any:
    """As the loop launches one request, or several."""
    assert servable.executor.launching == {"go"}
    if len(requests) == 1:
        ((specs, frames),) = requests
        return servable.executor.launch("go", specs, frames, EMPTY_MAP)
    return servable.executor.launch_together("go", requests, EMPTY_MAP)
