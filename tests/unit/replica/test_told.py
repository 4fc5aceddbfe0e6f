"""A failure of one rank, as another one hears of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hpcserve.errors import HpcserveError, InvalidInput, InvalidOutput, ServableError
from hpcserve.replica.together import run_together
from hpcserve.replica.told import error_of, failure_of
from hpcserve.servable.api import SampleError
from hpcserve.wire.frames import decoder, encode
from hpcserve.wire.ranks import Answer, Done, Failure

decode = decoder(Answer)


def told(error: HpcserveError, cause: BaseException | None = None) -> Failure:
    error.__cause__ = cause
    failure = decode(encode(failure_of(error)))
    assert isinstance(failure, Failure)
    return failure


@pytest.mark.parametrize("kind", [ServableError, InvalidOutput, InvalidInput])
def test_the_class_the_message_and_the_traceback_arrive(kind: type[HpcserveError]) -> None:
    error = error_of(told(kind("it failed", remote_traceback="line 1")), 3)
    assert type(error) is kind
    assert (error.message, error.remote_traceback) == ("it failed", "(rank 3) line 1")
    assert error_of(told(kind("it failed")), 3, named=True).message == "rank 3: it failed"


def test_a_sample_keeps_its_place_in_the_batch_and_its_words() -> None:
    failure = told(ServableError("x failed"), SampleError(1, "odd"))
    assert (failure.sample, failure.out_of_memory) == (1, False)

    def run(batch: object) -> list[dict[str, object]]:
        if batch == [{"x": 1}, {"x": 2}]:
            raise error_of(failure, 2, sample=3)
        return [{"y": 1}]

    (good, bad), _ = run_together([{"x": 1}, {"x": 2}], run, [2, 2])
    assert good == {"y": 1}
    assert isinstance(bad, ServableError)
    assert bad.message == "sample 1 of the request: odd"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "no room") for name in ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError")),
        ("AcceleratorError", "CUDA error: out of memory"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_lack_of_memory_stays_one(name: str, words: str) -> None:
    failure = told(ServableError("x failed"), type(name, (Exception,), {})(words))
    assert failure.out_of_memory

    def run(batch: Sequence[object]) -> list[dict[str, object]]:
        if len(batch) > 1:
            raise error_of(failure, 1)
        return [{}]

    assert run_together([{}, {}, {}], run, [1, 1, 1]) == ([{}, {}, {}], 2)


def test_what_went_well_is_told_as_it_is() -> None:
    assert decode(encode(Done())) == Done()
