"""One poll over sockets and file descriptors, with a function to call for each. The agent's only wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq

Source = int | zmq.Socket[Any]


class Watch:
    """Calls handlers when their sources are ready. A handler may add and remove any source."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._handlers: dict[Source, Callable[[], object]] = {}

    def add(self, source: Source, handler: Callable[[], object], *, events: int = zmq.POLLIN) -> None:
        """Calls ``handler`` in each turn in which ``source`` is ready. It must not block."""
        self._handlers[source] = handler
        self._poller.register(source, events)

    def remove(self, source: Source) -> None:
        """Forgets ``source``; must precede closing it. Not an error when it is not there."""
        if self._handlers.pop(source, None) is not None:
            self._poller.unregister(source)

    def turn(self, timeout_s: float) -> None:
        """Waits for any source, at most ``timeout_s``, and calls the handlers of those that are ready."""
        for source, _ in self._poller.poll(max(0, round(timeout_s * 1000 + 0.5))):
            handler = self._handlers.get(source)
            if handler is not None:  # one that was called before may have removed it
                handler()
