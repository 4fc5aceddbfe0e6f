"""Rank 0 of several: to the executor it looks like a loaded servable, and it has the others compute with it.

What each rank computes, :mod:`hpcserve.replica.parallel` and :mod:`hpcserve.replica.collective` say. Every order is
answered once by each rank that has to do something, so that rank 0 knows at any time who still computes.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from hpcserve.errors import HpcserveError
from hpcserve.replica.mpi import Nap, World
from hpcserve.replica.told import error_of
from hpcserve.servable.loaded import Loaded
from hpcserve.wire.frames import decoder, encode
from hpcserve.wire.launch import ReplicaStart, encode_line
from hpcserve.wire.ranks import Answer, Begin, Done, Drop, End, Failure, Go

RESERVE_BYTES = 4 << 20
"""Of so much the others are asked first whether they have room: a question takes as long as some hundred kilobytes."""

T = TypeVar("T")
_decode_answer = decoder(Answer)


class OutOfStep(Exception):
    """Rank 0 has failed between an order and its end: the others wait for what it cannot give.

    No error of a request's, so that nobody answers one with it and goes on: the group ends.
    """


@contextmanager
def in_step() -> Iterator[None]:
    """What the others take part in meanwhile: it is done, or the group ends.

    Raises:
        OutOfStep: It failed.
    """
    try:
        yield
    except (HpcserveError, MemoryError) as error:
        raise OutOfStep(f"rank 0 has failed while the other ranks wait for it: {error!r}") from error


class Answers:
    """What the others answer to one order. Two threads may ask.

    Args:
        world: All ranks.
        awaited: Those that will answer.

    Attributes:
        told: What they have said, by rank.
        troubled_at: When the first failure was heard of, in monotonic seconds; infinity: there is none.
    """

    def __init__(self, world: World, awaited: Iterable[int]) -> None:
        self.told: dict[int, Done | Failure] = {}
        self.troubled_at = math.inf
        self._world = world
        self._awaited = frozenset(awaited)
        self._lock = threading.Lock()

    @property
    def missing(self) -> list[int]:
        """Who has not answered yet."""
        return sorted(self._awaited - self.told.keys())

    @property
    def failures(self) -> dict[int, Failure]:
        """Who has failed, by rank."""
        return {rank: told for rank, told in sorted(self.told.items()) if isinstance(told, Failure)}

    def poll(self) -> bool:
        """Takes what has arrived. Returns whether all have answered."""
        with self._lock:
            while len(self.told) < len(self._awaited):
                heard = self._world.next_answer()
                if heard is None:
                    return False
                rank, message = heard
                answer = self.told[rank] = _decode_answer(message)
                if isinstance(answer, Failure):
                    self.trouble()
                elif answer.devices:
                    self._world.devices[rank] = answer.devices
            return True

    def trouble(self) -> None:
        """A failure is known."""
        self.troubled_at = min(self.troubled_at, time.monotonic())

    def wait(self, grace_s: float = math.inf) -> bool:
        """Waits for all answers, once a failure is known no longer than the grace. Returns whether all are there."""
        nap = Nap()
        while not self.poll():
            if time.monotonic() > self.troubled_at + grace_s:
                return False
            nap.take()
        return True

    def error(self, *, named: bool = True) -> HpcserveError | None:
        """The failure of the lowest rank that has one."""
        for rank, failure in self.failures.items():
            return error_of(failure, rank, sample=failure.sample, named=named)
        return None


def begin(world: World, start: ReplicaStart) -> Answers:
    """Has the others set their servables up: they get what the agent told, without the secret key."""
    line = encode_line(msgspec.structs.replace(start, secret_key=b""))
    world.tell_all(encode(Begin(line)))
    return Answers(world, range(1, world.size))


def reserve(world: World) -> None:
    """Waits until all others have said that they have room for what they were told of, and has them take it.

    Raises:
        HpcserveError: One has none; its cause is a MemoryError, and all have forgotten it.
    """
    with in_step():
        answers = Answers(world, range(1, world.size))
        answers.wait()
        error = answers.error()
        world.tell_all(encode(Go() if error is None else Drop()))
    if error is not None:
        raise error


def end(world: World, loaded: Loaded) -> None:
    """Ends the group in order: each rank tears its servable down.

    Raises:
        ServableError: Rank 0's could not be.
    """
    world.tell_all(encode(End()))
    loaded.teardown()
