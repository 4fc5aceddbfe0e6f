"""A batch of requests as one call, and what becomes of each when that call fails (design §6).

- A :class:`~hpcserve.servable.api.SampleError` names its sample: that request fails, the others are run again.
- Out of memory: each half is run by itself, and the caller is told how many samples were too many together.
- Anything else: each half is run by itself, down to the requests that fail alone. Nobody fails for a batch-mate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.replica.broken import check_device, origins
from hpcserve.servable.api import SampleError
from hpcserve.servable.shortage import is_shortage

Array = Any
Request = Mapping[str, Array]
Result = dict[str, Array] | HpcserveError
Run = Callable[[Sequence[Request]], list[dict[str, Array]]]
MOST_NAMED = 3
"""After so many named samples the batch is halved: to run it once for each of a thousand would take too long."""


def run_together(
    requests: Sequence[Request],
    run: Run,
    samples: Sequence[int],
    gave_up: Callable[[], bool] = lambda: False,
    *,
    named: int = 0,
) -> tuple[list[Result], int]:
    """Runs the requests as one batch if that succeeds.

    Args:
        requests: The inputs of each.
        run: Calls the method with all the inputs together; returns the outputs of each.
        samples: How many samples each has.
        gave_up: Whether nobody waits for them any more: then a failed batch is not looked into.
        named: How many samples the method has named in vain.

    Returns:
        For each request its outputs or its error; and the fewest samples that were out of memory though each half of
        them was not, or 0.

    Raises:
        DeviceBroken: A GPU is of no use any more.
    """
    if not requests:
        return [], 0
    try:
        return list(run(requests)), 0
    except HpcserveError as error:
        failure: HpcserveError = error
    check_device(failure)
    _let_go(failure)
    if gave_up():
        return [failure] * len(requests), 0
    place, start = _at_fault(failure, samples)
    if len(requests) == 1:
        return [of_one_sample(failure) if place == 0 else failure], 0
    if place is not None and named < MOST_NAMED:
        others = [index for index in range(len(requests)) if index != place]
        kept, kept_samples = [requests[index] for index in others], [samples[index] for index in others]
        results, too_many = run_together(kept, run, kept_samples, gave_up, named=named + 1)
        results.insert(place, of_one_sample(failure, start))
        return results, too_many
    results, too_many = [], 0
    middle = len(requests) // 2
    for part in (slice(middle), slice(middle, None)):
        found, fewer = run_together(requests[part], run, samples[part], gave_up, named=named)
        results += found
        too_many = min(too_many or fewer, fewer or too_many)
    if not too_many and lacks_memory(failure) and not any(map(_lacks_memory_alone, results)):
        too_many = sum(samples)
    return results, too_many


def _let_go(failure: HpcserveError) -> None:
    """Frees what the failed call had in its hands, which its traceback keeps alive: the halves need the memory."""
    for error in (failure, *origins(failure)):
        error.__traceback__ = None


def lacks_memory(failure: HpcserveError) -> bool:
    """Whether a call failed since there was no memory."""
    cause = failure.__cause__
    return cause is not None and is_shortage(type(cause).__name__, str(cause))


def _lacks_memory_alone(result: Result) -> bool:
    return isinstance(result, HpcserveError) and lacks_memory(result)


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


def _at_fault(failure: HpcserveError, samples: Sequence[int]) -> tuple[int | None, int]:
    """The request whose sample a SampleError names, and the place of its first sample; None if it names nobody's."""
    fault = failure.__cause__
    start = 0
    if isinstance(fault, SampleError) and fault.index >= 0:
        for place, count in enumerate(samples):
            if fault.index < start + count:
                return place, start
            start += count
    return None, 0
