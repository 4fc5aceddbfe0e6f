"""Which daemon threads read HDF5 files: the interpreter, when it ends, waits until they have left the library.

h5py's one lock is held through each of its calls. A daemon thread that the interpreter stops in one keeps it for ever,
and the interpreter then waits for it to take its own objects of h5py away: it never ends (h5py 3.16, Python 3.11).
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from hpcserve.errors import Cancelled

T = TypeVar("T")

LONGEST_S = 60.0
"""A piece is read by then, also from a file system that is busy."""
LOOK_S = 0.01


class Readers:
    """Those of this process. It takes no lock: a forked child might find it held by a thread that it does not have."""

    def __init__(self) -> None:
        self._threads: dict[int, threading.Thread] = {}
        self._ending = False

    def run(self, read: Callable[[], T]) -> T:
        """Has this thread read. All others but daemon threads are waited for anyway.

        Raises:
            Cancelled: As :meth:`go_on`.
        """
        thread = threading.current_thread()
        if not thread.daemon:
            return read()
        self._threads[id(thread)] = thread
        try:
            self.go_on()
            return read()
        except Cancelled:
            pass  # with its frames go their objects of h5py, which takes that lock: while this thread is waited for
        finally:
            del self._threads[id(thread)]
        raise _at_the_end()

    def go_on(self) -> None:
        """To be called between two pieces.

        Raises:
            Cancelled: The interpreter ends, and this thread is a daemon.
        """
        if self._ending and threading.current_thread().daemon:
            raise _at_the_end()

    def end(self) -> None:
        """No daemon thread begins with a piece any more; waits until those that have are out."""
        self._ending = True
        until = time.monotonic() + LONGEST_S
        while any(each.is_alive() for each in list(self._threads.values())) and time.monotonic() < until:
            time.sleep(LOOK_S)


def _at_the_end() -> Cancelled:
    return Cancelled("the program ends: the result is not read any further")


READERS = Readers()
atexit.register(READERS.end)
