"""Brings staged results here for calls that nobody waits for in a thread of their own: those of futures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from hpcserve.client.call import Inference
from hpcserve.errors import Cancelled

AT_ONCE = 2
SENT_AT_ONCE = 256
"""These only look on."""


class Landing:
    """Threads of one client, made when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[bool, ThreadPoolExecutor] = {}
        self._closed = False

    def land(self, call: Inference, settle: Callable[[Inference], None]) -> None:
        """Brings a call's result here and calls ``settle``, which is called in any case."""
        with self._lock:
            is_sent = call.sending is not None
            threads = self._threads.get(is_sent)
            if threads is None and not self._closed:
                many = SENT_AT_ONCE if is_sent else AT_ONCE
                threads = self._threads[is_sent] = ThreadPoolExecutor(many, thread_name_prefix="hpcserve-staged")
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
            self._closed, pools = True, list(self._threads.values())
        for threads in pools:
            threads.shutdown(wait=False, cancel_futures=True)


def _give_up(call: Inference) -> None:
    call.staged = None
    call.error = Cancelled("the client was closed before the result was fetched; wait for answers before you close it")
