"""A SIGTERM that is heard while the main thread is within MPI, where no handler of Python's own runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def on_sigterm(act: Callable[[], object]) -> None:
    """Has a thread of its own call ``act`` at each SIGTERM. To be called by the main thread, once.

    The interpreter notes a signal in a descriptor whatever thread it meets. To block it, and take it by sigwait(3),
    would do as well, but all that the servable starts would inherit that, and not end when asked to.
    A servable that sets a wakeup descriptor for itself takes this away.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def hear() -> None:
        while True:
            if signal.SIGTERM in os.read(read, 1):
                act()

    threading.Thread(target=hear, name="sigterm", daemon=True).start()
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda signum, frame: None)
