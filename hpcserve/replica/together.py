"""A batch of requests as one call, and what becomes of each when that call fails (design §6).

- A :class:`~hpcserve.servable.api.SampleError` names its sample: that request fails, the others are run again.
- Out of memory: each half is run by itself, and the caller is told how many samples were too many.
- Anything else: each half is run by itself, down to the requests that fail alone. Nobody fails for a batch-mate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.servable.api import SampleError

Array = Any
Request = Mapping[str, Array]
Result = dict[str, Array] | HpcserveError
Run = Callable[[Sequence[Request]], list[dict[str, Array]]]
OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError")
"""The names of the exceptions of Python, of torch and of numpy; to import torch only for its name would be dear."""


def run_together(
    requests: Sequence[Request], run: Run, samples: Sequence[int], gave_up: Callable[[], bool] = lambda: False
) -> tuple[list[Result], int]:
    """Runs the requests as one batch if that succeeds.

    Args:
        requests: The inputs of each.
        run: Calls the method with all the inputs together; returns the outputs of each.
        samples: How many samples each has.
        gave_up: Whether nobody waits for them any more: then a failed batch is not looked into.

    Returns:
        For each request its outputs or its error; and the fewest samples that were out of memory, or 0.
    """
    try:
        return list(run(requests)), 0
    except HpcserveError as error:
        failure: HpcserveError = error
    cause = failure.__cause__
    if gave_up():
        return [failure] * len(requests), 0
    if isinstance(cause, SampleError):
        return _without_one(requests, run, samples, failure, gave_up)
    too_many = sum(samples) if type(cause).__name__ in OUT_OF_MEMORY else 0
    if len(requests) == 1:
        return [failure], too_many
    results: list[Result] = []
    middle = len(requests) // 2
    for part in (slice(middle), slice(middle, None)):
        found, fewer = run_together(requests[part], run, samples[part], gave_up)
        results += found
        too_many = min(too_many or fewer, fewer or too_many)
    return results, too_many


def of_one_sample(failure: HpcserveError, start: int = 0) -> HpcserveError:
    """The error of the request whose sample is at fault; any other failure as it is.

    Args:
        failure: What the call failed with.
        start: The place of the request's first sample in the batch.
    """
    fault = failure.__cause__
    if not isinstance(fault, SampleError):
        return failure
    told = f"sample {fault.index - start} of the request: {fault}"
    return ServableError(told, remote_traceback=failure.remote_traceback)


def _without_one(
    requests: Sequence[Request],
    run: Run,
    samples: Sequence[int],
    failure: HpcserveError,
    gave_up: Callable[[], bool],
) -> tuple[list[Result], int]:
    """The request with the faulty sample fails with its words; the others are run without it."""
    fault = failure.__cause__
    assert isinstance(fault, SampleError), "the caller looked"
    place, start = 0, 0
    while place < len(requests) and fault.index >= start + samples[place]:
        start += samples[place]
        place += 1
    if fault.index < 0 or place == len(requests):
        told = ServableError(
            f"SampleError({fault.index}) names none of the {sum(samples)} samples: {fault}",
            remote_traceback=failure.remote_traceback,
        )
        return [told] * len(requests), 0
    own: Result = of_one_sample(failure, start)
    others = [index for index in range(len(requests)) if index != place]
    if not others:
        return [own], 0
    results, too_many = run_together([requests[i] for i in others], run, [samples[i] for i in others], gave_up)
    results.insert(place, own)
    return results, too_many
