"""Brings staged results here for calls that nobody waits for in a thread of their own: those of futures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from hpcserve.client.call import Inference
from hpcserve.errors import Cancelled

AT_ONCE = 2


class Landing:
    """Threads of one client, made when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def land(self, call: Inference, settle: Callable[[Inference], None]) -> None:
        """Brings a call's result here and calls ``settle``, which is called in any case."""
        with self._lock:
            threads = self._threads
            if threads is None and not self._closed:
                threads = self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="hpcserve-staged")
        if threads is None or self._closed:
            _give_up(call)
            settle(call)
            return

        def ended(future: Future[None]) -> None:
            if future.cancelled():
                _give_up(call)
            settle(call)

        threads.submit(call.land).add_done_callback(ended)

    def close(self) -> None:
        """What has not begun is given up."""
        with self._lock:
            self._closed, threads = True, self._threads
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)


def _give_up(call: Inference) -> None:
    call.staged = None
    call.error = Cancelled("the client was closed before the result was fetched; wait for answers before you close it")
