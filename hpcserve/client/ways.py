"""How a client gets to its service: straight to the addresses of the record, or through ssh.

Each attempt to connect asks anew, so that a daemon may move.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from hpcserve.client.services import Service
from hpcserve.types import Epoch
from hpcserve.wire.record import ServiceRecord

ANSWER_S = 4.0  # how long each step may take: a refusal is known within 5 s


class Door(NamedTuple):
    """One of the daemon's sockets, as it can be connected to from here.

    Attributes:
        address: What ZeroMQ is given.
        shown: What people are told.
        answer_s: How long each step may take there.
    """

    address: str
    shown: str
    answer_s: float


class Reached(NamedTuple):
    """A daemon that may be connected to now."""

    record: ServiceRecord
    admission: Door
    front: Door


class Way(Protocol):
    """One client's way to its service."""

    def reach(self) -> contextlib.AbstractContextManager[Reached]:
        """Where to connect to; the doors are open as long as the context lasts, connections outlast it.

        Raises:
            HpcserveError: As :meth:`hpcserve.client.services.Service.read`.
        """

    def published(self) -> Epoch:
        """The epoch in the record as it is now. In any thread, beside :meth:`reach`; makes no new tunnel.

        Raises:
            HpcserveError: It cannot be told.
        """

    def interrupt(self) -> None:
        """Ends a :meth:`reach` that waits in another thread; none succeeds any more."""

    def close(self) -> None:
        """Gives back what it holds, when no socket leads through it any more."""


class ByRecord:
    """The addresses in the record are within reach."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @contextlib.contextmanager
    def reach(self) -> Iterator[Reached]:
        """See :meth:`Way.reach`."""
        record = self._service.read()
        admission, front = record.admission[0], record.front_address(os.uname().nodename, may_open)
        yield Reached(record, Door(admission, admission, ANSWER_S), Door(front, front, ANSWER_S))

    def published(self) -> Epoch:
        """See :meth:`Way.published`."""
        return self._service.read().epoch

    def interrupt(self) -> None:
        """It never waits."""

    def close(self) -> None:
        """It holds nothing."""


def way_to(service: Service) -> Way:
    """The way to this service.

    Raises:
        ConfigError: Its address is wrong.
    """
    if service.address is None:
        return ByRecord(service)
    from hpcserve.client.by_ssh import BySsh

    return BySsh(service)


def may_open(path: str) -> bool:
    """Whether this process may connect to a Unix socket."""
    return os.access(path, os.R_OK | os.W_OK)
