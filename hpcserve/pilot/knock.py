"""An agent's own look at an address that libzmq does not reach: libzmq does not say why it cannot connect.

It never blocks, and says nothing where a connection comes about: then it was not the network. Decides neither when an
address is looked at nor what follows.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import zmq

from hpcserve.cluster.reach import Obstacle, obstacle, split
from hpcserve.pilot.watch import Watch

KNOCK_S = 4.0
"""How long an answer is waited for."""


class Knock:
    """Looks at one address at a time.

    Args:
        watch: Where the attempt is watched.
        clock: Monotonic seconds.
        told: Called with the address and what is in the way.
    """

    def __init__(self, watch: Watch, clock: Callable[[], float], told: Callable[[str, Obstacle], None]) -> None:
        self._watch = watch
        self._clock = clock
        self._told = told
        self._address = ""
        self._socket: socket.socket | None = None
        self._until_s = 0.0

    @property
    def due_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        return None if self._socket is None else self._until_s

    def begin(self, address: str) -> None:
        """Tries ``tcp://HOST:PORT``, unless one is tried already."""
        if self._socket is not None:
            return
        self._address = address
        host, port = split(address)
        try:  # addresses of a service record are numeric: nobody is asked for them
            family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            self._until_s = self._clock() + KNOCK_S
            self._watch.add(self._socket.fileno(), self._answered, events=zmq.POLLOUT)
            self._socket.connect(place)
        except BlockingIOError:
            return
        except (OSError, UnicodeError) as error:
            self._end(error)
        else:
            self.close()

    def tick(self, now: float) -> None:
        """Gives up where nothing came back."""
        if self._socket is not None and now >= self._until_s:
            self._end(TimeoutError())

    def close(self) -> None:
        """Tries no longer."""
        opened, self._socket = self._socket, None
        if opened is not None:
            self._watch.remove(opened.fileno())
            opened.close()

    def _answered(self) -> None:
        assert self._socket is not None, "it is watched as long as it is there"
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._end(OSError(number, os.strerror(number)))
        else:
            self.close()

    def _end(self, error: OSError | UnicodeError) -> None:
        self.close()
        self._told(self._address, obstacle(error, split(self._address)[0], KNOCK_S))
