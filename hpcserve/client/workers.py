"""Threads that do what is put into their line. Nobody waits for them, the interpreter at its end neither."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Workers:
    """So many threads at most, made when they are first needed.

    Args:
        name: Of each thread.
        most: How many.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._line: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def put(self, work: Callable[[], None]) -> None:
        """Has something done, in its turn. It must not raise."""
        self._line.put(work)
        with self._lock:
            if len(self._threads) < self._most and not self._closed:
                self._threads.append(threading.Thread(target=self._run, name=self._name, daemon=True))
                self._threads[-1].start()

    def close(self) -> None:
        """Each thread ends after what it does at present; what stands in the line is not begun."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._line.put(None)

    def _run(self) -> None:
        while (work := self._line.get()) is not None and not self._closed:
            work()
            del work  # it has a result, which is not kept until the next one
