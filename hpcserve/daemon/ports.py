"""The ports of the daemon's public sockets: the first that is free of those that may be had."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import zmq

from hpcserve.cluster import interfaces
from hpcserve.cluster.site_host import Doors
from hpcserve.config import Site
from hpcserve.errors import ConfigError, Conflict, HpcserveError


def bind(socket: zmq.Socket[Any], name: str, host: str, ports: Sequence[int]) -> str:
    """Binds to the first of the ``ports`` that is free, and returns the address.

    Args:
        socket: The socket.
        name: What the site file calls it: ``front`` for ``[network] front_port``.
        host: The address, or the name of an interface.
        ports: What to try, in this order; 0 is any free port.

    Raises:
        Conflict: None of them is free.
        ConfigError: There is no such host here, or the port may not be had.
    """
    numeric = interfaces.resolve(host)
    socket.ipv6 = ":" in numeric
    for port in ports:
        try:
            socket.bind(f"tcp://{interfaces.endpoint(numeric, port or '*')}")
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or port == ports[-1]:
                raise bind_error(name, host, ports, error.errno or 0) from error
            continue
        address = socket.get(zmq.LAST_ENDPOINT)
        assert isinstance(address, bytes), "an option of type bytes"
        return address.rstrip(b"\0").decode()
    raise ConfigError(f"no port to bind the socket {name} of {host} to; correct [network] of the site file")


def bind_error(name: str, host: str, ports: Sequence[int], number: int) -> HpcserveError:
    """The error that says why a socket could not be bound.

    Args:
        name: The socket's name.
        host: The address.
        ports: What was tried.
        number: The error number.
    """
    if number == errno.EADDRINUSE and len(ports) > 1:
        return Conflict(
            f"none of the ports {min(ports)}-{max(ports)} of {host} is free for the socket {name}: set [network] "
            "port_range in the site file to a wider range, or end a program that uses one of them"
        )
    told = ", ".join(map(str, ports))
    if number == errno.EADDRINUSE:
        return Conflict(
            f"port {told} of {host} is in use by another program: set [network] {name}_port in the site file "
            "to a free port, or to 0 for any, or end that program"
        )
    if number == errno.EADDRNOTAVAIL:
        return ConfigError(f"network.host: no interface of this host has {host}; {interfaces.listed()}")
    return ConfigError(
        f"cannot listen on {host} (port {told}): {zmq.strerror(number)}; correct [network] of the site file"
    )


def counted(failure: HpcserveError, site: Site) -> HpcserveError:
    """Why the daemon could not start: if ports are lacking, with how many are free, and how many it needs.

    One socket alone cannot tell: the others of the daemon may have taken the free ones. Call it when they are closed.
    """
    if not isinstance(failure, Conflict):
        return failure
    doors = Doors(site)
    doors.close()
    return Conflict(doors.lacking()) if doors.lacking() else failure
