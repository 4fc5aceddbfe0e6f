"""A failure of one rank as another one hears of it: an error, and what :mod:`hpcserve.replica.together` asks of it."""

from __future__ import annotations

from hpcserve.errors import BY_CODE, HpcserveError
from hpcserve.replica.together import lacks_memory
from hpcserve.servable.api import SampleError
from hpcserve.wire.ranks import Failure


def failure_of(error: HpcserveError) -> Failure:
    """What is told of an error."""
    cause = error.__cause__
    return Failure(
        error.code,
        error.message,
        error.remote_traceback,
        fault="" if cause is None else str(cause),
        sample=cause.index if isinstance(cause, SampleError) else None,
        out_of_memory=lacks_memory(error),
    )


def error_of(failure: Failure, rank: int, *, sample: int | None = None, named: bool = False) -> HpcserveError:
    """The error that was told of.

    Args:
        failure: What was told.
        rank: Who told it.
        sample: The place in the batch of the sample at fault.
        named: Whether the message is to name the rank.
    """
    kind = BY_CODE.get(failure.code, HpcserveError)
    message = f"rank {rank}: {failure.message}" if named else failure.message
    traceback = f"(rank {rank}) {failure.traceback}" if failure.traceback else None
    error = kind(message, remote_traceback=traceback)
    if sample is not None:
        error.__cause__ = SampleError(sample, failure.fault)
    elif failure.out_of_memory:
        error.__cause__ = MemoryError(failure.fault)
    return error
