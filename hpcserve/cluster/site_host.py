"""Looks whether this host is as a site says: its network, its directories, its programs."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from hpcserve.cluster.site_findings import Finding
from hpcserve.config import MIB, Site

LEAST_FREE_BYTES = 1024 * MIB
"""Servables, logs and results go to the shared directory."""


class Doors:
    """The three sockets of the daemon, open as the daemon would open them, while a compute node tries to reach them.

    A port that is in use is left to whoever has it, most likely the daemon of this site.
    """

    def __init__(self, site: Site) -> None:
        self.addresses: list[str] = []
        self.error = ""
        self._context: zmq.Context[Any] = zmq.Context()
        self._open_ones: list[zmq.Socket[Any]] = []  # pyzmq closes a socket that nobody holds
        network = site.network
        for port in (network.admission_port, network.front_port, network.back_port):
            if network.host and not self.error:
                self._open(network.host, port)

    def _open(self, host: str, port: int) -> None:
        opened = self._context.socket(zmq.ROUTER)
        opened.linger = 0
        try:
            opened.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            opened.close()
            if error.errno == zmq.EADDRINUSE:
                self.addresses.append(f"{_numeric(self._context, host)}:{port}")
            else:
                self.error = str(error.strerror)
            return
        self._open_ones.append(opened)
        self.addresses.append(_endpoint(opened))

    def close(self) -> None:
        """Closes them."""
        self._context.destroy(linger=0)


def _endpoint(opened: zmq.Socket[Any]) -> str:
    told = opened.get(zmq.LAST_ENDPOINT)
    assert isinstance(told, bytes), "an option of type bytes"
    return told.rstrip(b"\0").decode().removeprefix("tcp://")


def _numeric(context: zmq.Context[Any], host: str) -> str:
    with context.socket(zmq.ROUTER) as other:
        other.bind(f"tcp://{host}:*")
        return _endpoint(other).rpartition(":")[0]


def network(site: Site, doors: Doors) -> Finding:
    """Whether the daemon can listen where the site says, and others may connect to it there."""
    host = site.network.host
    if doors.error or not host:
        there = ", ".join(name for _, name in socket.if_nameindex())
        told = f"network.host: cannot listen on {host!r}: {doors.error}" if host else "network.host is empty"
        return Finding("interface", "failed", f"{told}; this host has the interfaces {there}")
    address = doors.addresses[0].rpartition(":")[0].strip("[]")
    if host in {name for _, name in socket.if_nameindex()} and _down(host):
        return Finding("interface", "failed", f"network.host: interface {host} is down; name another one")
    if ipaddress.ip_address(address).is_loopback and site.scheduler.kind != "local":
        told = f"network.host: {host!r} is {address}, which other hosts cannot reach"
        return Finding("interface", "failed", f"{told}; name the interface that compute nodes reach")
    return Finding("interface", "ok", address if host == address else f"{host} is {address}")


def _down(interface: str) -> bool:
    with contextlib.suppress(OSError):  # not Linux
        return Path(f"/sys/class/net/{interface}/operstate").read_text().strip() == "down"
    return False


def shared_dir(site: Site) -> Finding:
    """Whether files can be written there, and how many; makes it where it is missing, as the daemon would."""
    place = site.shared_dir
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place):
            free_bytes = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("shared_dir", "failed", f"cannot write to {place}: {error}; set shared_dir to another place")
    told = f"{place}, {free_bytes / 1e9:.1f} GB free"
    if free_bytes < LEAST_FREE_BYTES:
        return Finding("shared_dir", "failed", f"{told}; clean up, or set shared_dir to another place")
    return Finding("shared_dir", "ok", told)


def containers(site: Site) -> Iterator[Finding]:
    """Whether the container runtime's command is there."""
    runtime = site.containers.runtime
    if runtime == "none":
        return
    found = shutil.which(runtime)
    if found is None:
        told = f"containers.runtime: no command {runtime!r} in PATH; load its module, or correct the site file"
        yield Finding("containers", "failed", told)
    else:
        yield Finding("containers", "ok", found)
