"""Brings staged results here for calls that nobody waits for in a thread of their own: those of futures.

Nobody waits for its threads, the interpreter at its end neither: a result may take days to arrive.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial

from hpcserve.client.call import Inference, brought
from hpcserve.client.lookout import Lookout
from hpcserve.client.outputs import Outputs
from hpcserve.client.sending import Journey, Transfer
from hpcserve.errors import Cancelled, HpcserveError
from hpcserve.wire import messages as wire

AT_ONCE = 2

Outcome = Outputs | HpcserveError


class Landing:
    """Threads of one client, made when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[int, Callable[[Outcome], None]] = {}
        self._next = 0
        self._closed = False
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lookout = Lookout()

    def land(self, call: Inference, settle: Callable[[Inference], None]) -> None:
        """Brings a call's result here and calls ``settle``, which is called in any case, once."""
        result, call.staged = call.staged, None
        assert result is not None, "what is staged"

        def done(outcome: Outcome) -> None:
            call.landed(result, outcome)
            settle(call)

        self._bring(call, result, done)

    def go_on(self, call: Inference, seen: Callable[[Transfer], None], done: Callable[[Outcome], None]) -> None:
        """See :meth:`Inference.go_on`. ``done`` is called in any case, once.

        Raises:
            InvalidInput: No result has waited.
        """
        self._bring(call, call.waiting(), done, seen)

    def close(self) -> None:
        """What has not come is given up, at once."""
        with self._lock:
            self._closed = True
            given_up, self._under_way = list(self._under_way.values()), {}
            for _ in self._threads:
                self._work.put(None)
        self._lookout.close()
        for done in given_up:
            done(_too_late())

    def _bring(
        self,
        call: Inference,
        result: wire.Result,
        done: Callable[[Outcome], None],
        seen: Callable[[Transfer], None] | None = None,
    ) -> None:
        with self._lock:
            number, self._next = self._next, self._next + 1
            closed = self._closed
            if not closed:
                self._under_way[number] = done
        ask = None if call.fetching is None else call.fetching.ask
        if closed:
            done(_too_late())
        elif call.sending is None or ask is None:
            self._put(number, partial(call.bring, result))
        else:
            journey = call.sending.journey(result, seen)
            self._lookout.watch(journey, ask, partial(self._ended, number, journey))

    def _ended(self, number: int, journey: Journey, end: Transfer | HpcserveError) -> None:
        """A transfer has. What has arrived may have to be read."""
        if isinstance(end, HpcserveError):
            self._settle(number, end)
        else:
            self._put(number, partial(journey.outputs, end))

    def _put(self, number: int, bring: Callable[[], Outputs]) -> None:
        def work() -> None:
            try:
                outcome = brought(bring)
            except Exception as error:  # noqa: BLE001 (whoever waits for the result would wait for ever)
                outcome = HpcserveError(f"the result cannot be brought here: {error!r}; this is a bug")
            self._settle(number, outcome)

        self._work.put(work)
        with self._lock:
            if len(self._threads) < AT_ONCE and not self._closed:
                self._threads.append(threading.Thread(target=self._run, name="hpcserve-staged", daemon=True))
                self._threads[-1].start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # it has a result, which is not kept until the next one

    def _settle(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            done = self._under_way.pop(number, None)
        if done is not None:  # it was given up otherwise
            done(outcome)


def _too_late() -> Cancelled:
    return Cancelled(
        "the client was closed before the result was fetched; wait for answers before you close it (what is on its "
        "way to a collection goes on: hpcserve transfers)"
    )
