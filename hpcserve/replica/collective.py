"""Collective ranks, seen from rank 0: each gets the whole input, and what rank 0 returns is the answer.

The ranks wait for each other within the servable's own communication. If one raises, others may wait for it for ever:
after a short grace the group is lost. It answers the request with the error, and ends, since nobody can call a rank
back from there. Rank 0 itself may be the one that waits: then a thread notices, which is awake during calls alone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.replica.mpi import World
from hpcserve.replica.ranks import RESERVE_BYTES, Answers, end, reserve
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.manifest import MethodSpec
from hpcserve.servable.yields import Yields
from hpcserve.wire.dtype_names import JSON
from hpcserve.wire.frames import encode, raw
from hpcserve.wire.jsonvalue import Json
from hpcserve.wire.ranks import Close, Done, Next, Order
from hpcserve.wire.ranks import Whole as WholeCall
from hpcserve.wire.tensor import pack

LOOK_S = 0.05
IDLE_S = 1.0

T = TypeVar("T")


class Guard:
    """Looks after rank 0's main thread while it takes part in a call.

    Args:
        grace_s: How long the others may take to return once a rank has failed.
        may_look: Whether a second thread may use MPI. If not, only the request's deadline ends what waits for ever.

    Attributes:
        lost: Called with the error, in a thread of its own, when the main thread will not return: to end the process.
    """

    def __init__(self, grace_s: float, *, may_look: bool = True) -> None:
        self.grace_s = grace_s
        self._may_look = may_look
        self.lost: Callable[[HpcserveError], object] = lambda error: None
        self._call: Answers | None = None
        self._turn = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, answers: Answers) -> None:
        """The main thread takes part from now on in what these are the answers to."""
        self._call = answers
        if not self._may_look:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="guard", daemon=True)
            self._thread.start()
        if not self._wanted.is_set():
            self._wanted.set()

    def done(self) -> None:
        """It has returned. Does not return itself where that is too late."""
        with self._turn:
            self._call = None

    def _look(self) -> None:
        while True:
            self._wanted.wait()
            idle_s = 0.0
            while idle_s < IDLE_S:
                time.sleep(LOOK_S)
                idle_s = 0.0 if self._look_at(self._call) else idle_s + LOOK_S
            self._wanted.clear()
            if self._call is not None:  # it began meanwhile
                self._wanted.set()

    def _look_at(self, answers: Answers | None) -> bool:
        if answers is None:
            return False
        answers.poll()
        if time.monotonic() <= answers.troubled_at + self.grace_s:
            return True
        with self._turn:
            if self._call is answers:
                error = answers.error() or ServableError("another rank failed")
                sys.stderr.write(f"rank 0 still waits {self.grace_s:g} s after another rank failed: {error.message}\n")
                self.lost(error)
        return True


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
        self._streams = 0

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
        self._streams += 1
        number = self._streams
        answers = self._call(method, inputs, parameters, number)
        try:
            items = self._take_part(method, answers, lambda: self._loaded.stream(method, inputs, parameters))
        except HpcserveError:
            if self.broken is None:
                self._step(method, Close(number), lambda: None)  # others may have begun it
            raise
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
            raise ServableError(
                f"method {method!r}: its stream ended on rank {first[True]} and not on rank {first[False]}; all ranks "
                "of a collective servable must yield as often"
            )
        return outputs

    def close(self, method: str, number: int, items: Yields) -> None:
        """Ends such a stream."""
        if self.broken is None:
            self._step(method, Close(number), items.close)

    def _step(self, method: str, order: Order, mine: Callable[[], T]) -> tuple[T, Answers]:
        """Has all ranks do what an order says, rank 0 by ``mine``."""
        if self.broken is not None:
            raise self.broken
        self._world.tell_all(encode(order))
        answers = Answers(self._world, range(1, self._world.size))
        return self._take_part(method, answers, mine), answers

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

    def _take_part(self, method: str, answers: Answers, mine: Callable[[], T]) -> T:
        """Rank 0's part of a call, and what it comes to."""
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
        failure = failure or answers.error()
        if failure is None:
            return found
        if not whole:
            self.broken = failure
            missing = ", ".join(map(str, answers.missing))
            sys.stderr.write(
                f"ranks {missing} are still in method {method!r} {self._guard.grace_s:g} s after another one failed: "
                f"the group ends; {failure.message}\n"
            )
        raise failure


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
