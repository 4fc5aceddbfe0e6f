"""What this host sees of a daemon's addresses, and where else a compute node may try to reach it meanwhile.

Decides nothing: :mod:`hpcserve.cluster.diagnosis` does, with what the node sees.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from typing import Self

import zmq

from hpcserve.cluster import interfaces
from hpcserve.cluster.diagnosis import Elsewhere, Socket, View
from hpcserve.cluster.reach import reach
from hpcserve.cluster.site_host import Listeners
from hpcserve.config import Site
from hpcserve.wire.record import ServiceRecord

HERE_S = 2.0
"""This host answers itself at once, or not at all."""
MOST_INTERFACES = 16


class Lookout:
    """To be used with ``with``: meanwhile something listens at all addresses of this host, if the daemon is here."""

    def __init__(self, site: Site, record: ServiceRecord) -> None:
        self._listeners = Listeners()
        is_here = record.host == socket.gethostname()
        sockets = [("admission", record.admission[0]), ("back", record.back[0])]
        self.view = View(
            host=record.host,
            is_here=is_here,
            epoch=record.epoch,
            sockets=tuple(_seen(name, address.removeprefix("tcp://")) for name, address in sockets),
            elsewhere=tuple(self._elsewhere(site)) if is_here else (),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listeners.close()

    def _elsewhere(self, site: Site) -> Iterator[Elsewhere]:
        there = [(name, address) for name in interfaces.names() for address in interfaces.addresses(name)[:1]]
        usable = [each for each in there if not ipaddress.ip_address(each[1]).is_loopback]
        for name, address in usable[:MOST_INTERFACES]:
            for ports in dict.fromkeys((site.network.any_port, (0,))):
                with contextlib.suppress(zmq.ZMQError):  # in use, all of them
                    yield Elsewhere(name, self._listeners.open(address, ports))


def _seen(name: str, address: str) -> Socket:
    return Socket(name, address, reach(address, HERE_S))
