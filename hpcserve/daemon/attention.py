"""What the supervisor attends to between its steps: signals, whoever started the daemon, and its children's reports."""

from __future__ import annotations

import math
import selectors
from collections.abc import Callable, Iterable

from hpcserve.cluster.signals import Signals
from hpcserve.daemon.starter import Starter


def attend(
    signals: Signals, starter: Starter, timeout_s: float, reports: Iterable[tuple[int, Callable[[], None]]] = ()
) -> None:
    """Waits for anything to happen, and takes note of it.

    Args:
        signals: Those that came.
        starter: Whoever started the daemon.
        timeout_s: So long at most; it may be negative or infinite.
        reports: Descriptors to poll beside, and what is called when one is readable.
    """
    sources = [
        (signals.fileno(), signals.drain),
        *((source, starter.hear) for source in starter.sources()),
        *reports,
    ]
    # A new one each time: what is polled changes with every event, and events are rare.
    with selectors.DefaultSelector() as selector:
        for source, handler in sources:
            selector.register(source, selectors.EVENT_READ, handler)
        ready = selector.select(max(0.0, timeout_s) if math.isfinite(timeout_s) else None)
    for key, _ in ready:
        key.data()
