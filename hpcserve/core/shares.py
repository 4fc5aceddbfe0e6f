"""How a batch is divided among the ranks of a replica, and what follows from how they fared with their shares. Pure.

Shares differ by at most one sample, and come in the order of the ranks. What a rank has to tell is what its share came
to, or its trouble; a rank without a share has nothing to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

Outputs = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape of each output; the first axis counts samples."""


@dataclass(frozen=True)
class Trouble:
    """A rank's method has failed.

    ``sample``: the one that it named, counted within its share. ``out_of_memory``: it had no memory.
    """

    sample: int | None = None
    out_of_memory: bool = False


@dataclass(frozen=True)
class Whole:
    """All is well: the outputs of the whole batch."""

    outputs: Outputs


@dataclass(frozen=True)
class Failed:
    """The batch fails with the trouble of ``rank``; ``sample`` is the one that it named, counted within the batch."""

    rank: int
    sample: int | None = None


@dataclass(frozen=True)
class Unlike:
    """The batch fails: what the shares of these two ranks came to cannot be put together."""

    one: int
    other: int


def shares(samples: int, ranks: int) -> tuple[int, ...]:
    """How many samples each rank has."""
    each, more = divmod(samples, ranks)
    return tuple(each + (rank < more) for rank in range(ranks))


def starts(counts: Sequence[int]) -> tuple[int, ...]:
    """The place of each rank's first sample in the batch."""
    return tuple(accumulate(counts, initial=0))[:-1]


def verdict(counts: Sequence[int], answers: Sequence[Outputs | Trouble | None]) -> Whole | Failed | Unlike:
    """What becomes of a batch.

    A sample that is at fault is told before all else, since the others are run again without it; then that there was
    no memory, since half the batch may find some; of equal troubles that of the lowest rank.

    Args:
        counts: How many samples each rank had.
        answers: What each has told; None from those without a share.
    """
    troubles = {rank: answer for rank, answer in enumerate(answers) if isinstance(answer, Trouble)}
    if troubles:
        named = {rank: _named(trouble, counts[rank]) for rank, trouble in troubles.items()}
        worst = min(troubles, key=lambda rank: (named[rank] is None, not troubles[rank].out_of_memory, rank))
        sample = named[worst]
        return Failed(worst, None if sample is None else starts(counts)[worst] + sample)
    told = {rank: answer for rank, answer in enumerate(answers) if isinstance(answer, tuple)}
    first, outputs = next(iter(told.items()))
    for rank, answer in told.items():
        if _of_a_sample(answer) != _of_a_sample(outputs):
            return Unlike(first, rank)
    return Whole(tuple((name, dtype, (sum(counts), *rest)) for name, dtype, rest in _of_a_sample(outputs)))


def _of_a_sample(outputs: Outputs) -> Outputs:
    return tuple((name, dtype, shape[1:]) for name, dtype, shape in outputs)


def _named(trouble: Trouble, count: int) -> int | None:
    """The sample that a rank has named, if its share has it."""
    return trouble.sample if trouble.sample is not None and 0 <= trouble.sample < count else None
