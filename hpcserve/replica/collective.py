"""Collective ranks, seen from rank 0: each gets the whole input, and what rank 0 returns is the answer.

The ranks wait for each other within the servable's own communication. If one raises, others may wait for it for ever:
after a short grace the group is lost. It answers the request with the error, and ends, since nobody can call a rank
back from there. Rank 0 itself may be the one that waits: :mod:`hpcserve.replica.guard` notices.

A rank may also send, and return, while the one that was to receive has raised. The next call would receive that. So
where some ranks raise and others return, the group answers the request and ends; where all raise, it goes on with
another communicator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hpcserve.errors import HpcserveError, InvalidOutput, ServableError
from hpcserve.replica.guard import Guard
from hpcserve.replica.mpi import World
from hpcserve.replica.ranks import RESERVE_BYTES, Answers, end, reserve
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.manifest import MethodSpec
from hpcserve.servable.yields import Yields
from hpcserve.wire.dtype_names import JSON
from hpcserve.wire.frames import encode, raw
from hpcserve.wire.jsonvalue import Json
from hpcserve.wire.ranks import Close, Done, Next, Renew
from hpcserve.wire.ranks import Whole as WholeCall
from hpcserve.wire.tensor import pack

MOST_RENEWED = 1000
"""A process has so many communicators for failed calls, which are not freed: MPICH (4.3) can make some 2000 in all."""

T = TypeVar("T")


class Collective:
    """Calls the methods of a servable on all ranks at once.

    Args:
        loaded: Rank 0's own servable.
        world: All ranks.
        guard: Watches over rank 0.

    Attributes:
        broken: Why the group cannot go on; None while it can.
    """

    def __init__(self, loaded: Loaded, world: World, guard: Guard) -> None:
        self.broken: HpcserveError | None = None
        self._loaded = loaded
        self._world = world
        self._guard = guard
        self._opened = 0
        self._streams: set[int] = set()
        self._renewed = 0

    @property
    def methods(self) -> dict[str, MethodSpec]:
        """What each method takes and gives."""
        return self._loaded.methods

    def run(self, method: str, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`hpcserve.servable.loaded.Loaded.run`, on all ranks."""
        self._check(method, parameters, stream=False)
        answers = self._call(method, inputs, parameters)
        return self._take_part(method, answers, lambda: self._loaded.run(method, inputs, parameters))

    def stream(self, method: str, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> CollectiveItems:
        """As :meth:`hpcserve.servable.loaded.Loaded.stream`, on all ranks."""
        self._check(method, parameters, stream=True)
        self._opened += 1
        number = self._opened
        answers = self._call(method, inputs, parameters, number)
        try:
            items = self._take_part(method, answers, lambda: self._loaded.stream(method, inputs, parameters))
        except HpcserveError:
            if self.broken is None:
                self._step(method, Close(number), lambda: None)  # others may have begun it
            raise
        self._streams.add(number)
        return CollectiveItems(self, method, number, items)

    def teardown(self) -> None:
        """Ends the group in order.

        Raises:
            ServableError: The servable's own ``teardown`` failed here.
        """
        end(self._world, self._loaded)

    def next(self, method: str, number: int, items: Yields) -> dict[str, Any] | None:
        """The next item of a stream that all ranks make; None at its end."""
        outputs, answers = self._step(method, Next(number), items.next)
        ended = {rank: told.is_over for rank, told in answers.told.items() if isinstance(told, Done)}
        ended[0] = outputs is None
        if len(set(ended.values())) > 1:
            first = {over: min(rank for rank in ended if ended[rank] == over) for over in (True, False)}
            told = f"method {method!r}: its stream ended on rank {first[True]} and not on rank {first[False]}"
            failure = ServableError(f"{told}; all ranks of a collective servable must yield as often")
            self._end(failure, told)
            raise failure
        return outputs

    def close(self, method: str, number: int, items: Yields) -> None:
        """Ends such a stream."""
        self._streams.discard(number)
        if self.broken is None:
            self._step(method, Close(number), items.close)

    def _step(self, method: str, order: Next | Close, mine: Callable[[], T]) -> tuple[T, Answers]:
        """Has all ranks do what an order says, rank 0 by ``mine``."""
        if self.broken is not None:
            raise self.broken
        self._world.tell_all(encode(order))
        answers = Answers(self._world, range(1, self._world.size))
        return self._take_part(method, answers, mine, order.stream), answers

    def _check(self, method: str, parameters: Mapping[str, Any], *, stream: bool) -> None:
        """What rank 0 alone would refuse need not bother the others."""
        if self.broken is not None:
            raise self.broken
        self._loaded.declared(method, parameters, stream=stream)
        if not stream and self._loaded.methods[method].stream:
            self._loaded.run(method, {}, {})  # refuses it

    def _call(
        self, method: str, inputs: Mapping[str, Any], parameters: Mapping[str, Any], stream: int | None = None
    ) -> Answers:
        values = {one.name for one in self._loaded.methods[method].inputs if one.dtype == JSON}
        specs, frames = pack({name: Json(given) if name in values else given for name, given in inputs.items()})
        sizes = tuple(map(len, frames))
        large = sum(sizes) >= RESERVE_BYTES
        self._world.tell_all(encode(WholeCall(method, specs, sizes, raw(parameters), stream, large)))
        if large:
            reserve(self._world)
        for frame in frames:
            self._world.broadcast(frame)
        return Answers(self._world, range(1, self._world.size))

    def _take_part(self, method: str, answers: Answers, mine: Callable[[], T], stream: int | None = None) -> T:
        """Rank 0's part of a call, which may be a step of a ``stream``, and what it comes to."""
        failure: HpcserveError | None = None
        self._guard.watch(answers)
        try:
            found = mine()
        except HpcserveError as error:
            failure = error
        except MemoryError as error:
            failure = ServableError(f"method {method!r}: out of memory: {error}")
            failure.__cause__ = error
        finally:
            self._guard.done()
        if failure is not None:
            answers.trouble()
        whole = answers.wait(self._guard.grace_s)
        raised = _raised(failure, answers)
        if failure is not None and 0 in raised and len(raised) < self._world.size:
            failure.message = f"rank 0: {failure.message}"
        failure = failure or answers.error()
        if failure is None:
            return found
        if not whole:
            late = f"{self._guard.grace_s:g} s after another one failed"
            self._end(failure, f"ranks {', '.join(map(str, answers.missing))} are still in method {method!r} {late}")
        elif raised:
            self._clear(method, failure, raised, stream)
        raise failure

    def _clear(self, method: str, failure: HpcserveError, raised: list[int], stream: int | None) -> None:
        """Sees to it that no later call receives what a failed one has sent: a rank need not wait for who receives."""
        if len(raised) < self._world.size:
            named = f"rank{'s' if len(raised) > 1 else ''} {', '.join(map(str, raised))}"
            self._end(failure, f"{named} raised in method {method!r} and the others returned: let all raise, or none")
        elif self._streams - {stream}:
            self._end(failure, f"method {method!r} raised on all ranks while a stream was open")
        elif self._renewed >= MOST_RENEWED:
            self._end(failure, f"methods have raised on all ranks {MOST_RENEWED} times")
        else:
            self._renewed += 1
            self._world.tell_all(encode(Renew()))
            self._world.renew()

    def _end(self, failure: HpcserveError, why: str) -> None:
        self.broken = failure
        sys.stderr.write(f"{why}: the group ends; {failure.message}\n")


def _raised(failure: HpcserveError | None, answers: Answers) -> list[int]:
    """On which ranks the method has raised. Where what it returned is not as declared, it has not."""
    ranks = [0] if failure is not None and not isinstance(failure, InvalidOutput) else []
    return ranks + [rank for rank, told in answers.failures.items() if told.code != InvalidOutput.code]


class CollectiveItems:
    """A stream that all ranks make together; each item is a call."""

    def __init__(self, group: Collective, method: str, number: int, items: Yields) -> None:
        self._group = group
        self._method = method
        self._number = number
        self._items = items

    def next(self) -> dict[str, Any] | None:
        """As :meth:`hpcserve.servable.yields.Yields.next`."""
        return self._group.next(self._method, self._number, self._items)

    def close(self) -> None:
        """As :meth:`hpcserve.servable.yields.Yields.close`."""
        self._group.close(self._method, self._number, self._items)
