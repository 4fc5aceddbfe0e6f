"""Which of the broker's sources have something to read, at the price of few system calls.

:class:`zmq.Poller` asks every socket for its state both before and after it sleeps, and each answer costs libzmq
two system calls. Here the process sleeps on the descriptors and asks only the sockets that carry requests,
and the others when they were used. They must be asked, because a descriptor tells of commands that
libzmq has not taken in yet: what a send or receive of our own took in meanwhile, only the socket knows.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Sequence
from typing import Any

import zmq

Source = Any
"""A socket, or a plain descriptor."""


class Watch:
    """The sources that one loop reads.

    Args:
        busy: The sockets that are used all the time.
        others: The sockets that are used now and then; say :meth:`used` after that.
        descriptor: One more thing to watch.
    """

    def __init__(self, busy: Sequence[zmq.Socket[bytes]], others: Sequence[zmq.Socket[bytes]], descriptor: int) -> None:
        self._busy = [(socket, zmq.POLLIN) for socket in busy]
        self._all = self._busy + [(socket, zmq.POLLIN) for socket in others]
        self._asked = self._all
        self._sources: dict[int, Source] = {int(socket.FD): socket for socket, _ in self._all}
        self._sources[descriptor] = descriptor
        self._epoll = select.epoll()
        for number in self._sources:
            self._epoll.register(number, select.EPOLLIN)

    def used(self) -> None:
        """The other sockets were written to, or read."""
        self._asked = self._all

    def wait(self, timeout_s: float) -> Iterable[tuple[Source, bool]]:
        """The sources that may have something to read, when there are any or the time is over.

        True with those that had something before: it was left there, or came meanwhile.
        """
        found: dict[Source, bool] = {socket: True for socket, _ in zmq.zmq_poll(self._asked, 0)}
        self._asked = self._busy
        for number, _ in self._epoll.poll(0 if found else timeout_s):
            found.setdefault(self._sources[number], False)
        return found.items()
