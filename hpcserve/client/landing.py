"""Brings staged results here for calls that nobody waits for in a thread of their own: those of futures.

Nobody waits for its threads, the interpreter at its end neither: a result may take days to arrive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from hpcserve.client.call import Inference, brought
from hpcserve.client.lookout import Lookout
from hpcserve.client.outputs import Outputs
from hpcserve.client.sending import MOST_CONSENTS, Journey, Transfer
from hpcserve.client.workers import Workers
from hpcserve.errors import Cancelled, HpcserveError, LoginRequired
from hpcserve.wire import messages as wire

if TYPE_CHECKING:
    from hpcserve.client.consents import Consents
    from hpcserve.client.sending import Ask

T = TypeVar("T")

AT_ONCE = 2

Outcome = Outputs | HpcserveError


class Landing:
    """Threads of one client, made when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[int, Callable[[Outcome], None]] = {}
        self._next = 0
        self._closed = False
        self._readers = Workers("hpcserve-staged", AT_ONCE)
        self._asker = Workers("hpcserve-consents", 1)
        """It may wait for a person. What others have asked for comes meanwhile."""
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
        self._readers.close()
        self._asker.close()
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
        ask, consents = (None, None) if call.fetching is None else (call.fetching.ask, call.fetching.consents)
        if closed:
            done(_too_late())
        elif call.sending is None or ask is None:
            self._put(number, partial(call.bring, result))
        else:
            self._watch(_Sent(number, call.sending.journey(result, seen), ask, consents))

    def _watch(self, sent: _Sent) -> None:
        self._lookout.watch(sent.journey, sent.ask, partial(self._ended, sent))

    def _ended(self, sent: _Sent, end: Transfer | HpcserveError) -> None:
        """A transfer has. What has arrived may have to be read; for what has not, somebody may have to log in."""
        if isinstance(end, Transfer):
            self._put(sent.number, partial(sent.journey.outputs, end))
        elif isinstance(end, LoginRequired) and sent.consents is not None and sent.left:
            sent.journey.stops(time.monotonic())
            self._asker.put(partial(self._see_to, sent, partial(sent.consents.see_to, end, sent.journey)))
        else:
            self._settle(sent.number, end)

    def _see_to(self, sent: _Sent, see_to: Callable[[], None]) -> None:
        error = _outcome(see_to)
        if isinstance(error, HpcserveError):
            self._settle(sent.number, error)
        else:
            sent.journey.goes_on()
            self._watch(replace(sent, left=sent.left - 1))

    def _put(self, number: int, bring: Callable[[], Outputs]) -> None:
        self._readers.put(lambda: self._settle(number, _outcome(bring)))

    def _settle(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            done = self._under_way.pop(number, None)
        if done is not None:  # it was given up otherwise
            done(outcome)


@dataclass(frozen=True)
class _Sent:
    """What is on its way, and how many things may still be wanted of its owner."""

    number: int
    journey: Journey
    ask: Ask
    consents: Consents | None
    left: int = MOST_CONSENTS


def _outcome(bring: Callable[[], T]) -> T | HpcserveError:
    """Whoever waits for the result is told in any case."""
    try:
        return brought(bring)
    except BaseException as error:  # noqa: BLE001 (SystemExit, too: otherwise they would wait for ever)
        return HpcserveError(f"the result cannot be brought here: {error!r}; this is a bug")


def _too_late() -> Cancelled:
    return Cancelled(
        "the client was closed before the result was fetched; wait for answers before you close it (what is on its "
        "way to a collection goes on: hpcserve transfers)"
    )
