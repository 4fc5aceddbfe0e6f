"""An event loop whose clock leaps: where the program would sleep, it is later at once. So an hour takes seconds.

What asks for the time gets the loop's, by ``time.monotonic`` and ``time.time``. While a thread works for the loop, as
the store's does, the clock stands still: how fast the machine is changes no count.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")

BEGIN_S = 1_000_000.0


class _Leaping(selectors.SelectSelector):
    """Waits for what threads do, and for nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = BEGIN_S
        self.at_work = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.at_work:
            return super().select(None if timeout is None or timeout > 0 else 0)
        if timeout is None:
            raise RuntimeError("everybody waits for ever")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        """Seconds of the simulation."""
        return self._leaping.now_s

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # typeshed spells the arguments by a TypeVarTuple
        """As of any loop; meanwhile the clock stands still."""
        self._leaping.at_work += 1
        done = super().run_in_executor(executor, func, *args)
        done.add_done_callback(self._done)
        return done

    def _done(self, _: object) -> None:
        self._leaping.at_work -= 1


def simulated(play: Callable[[], Awaitable[T]]) -> T:
    """What a coroutine gives that lives in simulated time, as all of this process does meanwhile."""
    loop = SimulatedLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner, _clock(loop.time):

        async def played() -> T:
            return await play()

        return runner.run(played())


async def until(condition: Callable[[], object], step_s: float = 1.0) -> None:
    """Returns once a condition holds; it is looked at so often."""
    while not condition():  # noqa: ASYNC110  what is waited for tells nobody, and time costs nothing
        await asyncio.sleep(step_s)


@contextlib.contextmanager
def _clock(now: Callable[[], float]) -> Iterator[None]:
    real = time.monotonic, time.time
    time.monotonic = time.time = now
    try:
        yield
    finally:
        time.monotonic, time.time = real
