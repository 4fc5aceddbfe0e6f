"""Looks whether this host is as a site says: its network, its directories, its programs."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from hpcserve.cluster import interfaces
from hpcserve.cluster.site_findings import Finding
from hpcserve.config import MIB, Site
from hpcserve.errors import ConfigError

LEAST_FREE_BYTES = 1024 * MIB
"""Servables, logs and results go to the shared directory."""


class Listeners:
    """ZeroMQ sockets that nobody reads: whoever reaches one is greeted."""

    def __init__(self) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._open_ones: list[zmq.Socket[Any]] = []  # pyzmq closes a socket that nobody holds

    def open(self, address: str, ports: Sequence[int] = (0,)) -> str:
        """Listens at the first of the ports that is free, and returns ``ADDRESS:PORT``.

        Raises:
            zmq.ZMQError: None is free, or this host has no such address.
        """
        opened = self._context.socket(zmq.ROUTER)
        opened.linger = 0
        opened.ipv6 = ":" in address
        for port in ports:
            try:
                opened.bind(f"tcp://{interfaces.endpoint(address, port or '*')}")
            except zmq.ZMQError as error:
                if error.errno == zmq.EADDRINUSE and port != ports[-1]:
                    continue
                opened.close()
                raise
            break
        self._open_ones.append(opened)
        told = opened.get(zmq.LAST_ENDPOINT)
        assert isinstance(told, bytes), "an option of type bytes"
        return told.rstrip(b"\0").decode().removeprefix("tcp://")

    def close(self) -> None:
        """Closes them."""
        self._context.destroy(linger=0)


class Doors:
    """The three sockets of the daemon, open as the daemon would open them, while a compute node tries to reach them.

    A port that is in use is left to whoever has it, most likely the daemon of this site.
    """

    def __init__(self, site: Site) -> None:
        self.addresses: list[str] = []
        self.error = ""
        self._listeners = Listeners()
        network = site.network
        try:
            address = interfaces.resolve(network.host)
        except ConfigError as error:
            self.error = error.message
            return
        for port in (network.admission_port, network.front_port, network.back_port):
            if not self.error:
                self._open(address, network.ports(port))

    def _open(self, address: str, ports: Sequence[int]) -> None:
        try:
            self.addresses.append(self._listeners.open(address, ports))
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                self.addresses.append(interfaces.endpoint(address, ports[-1]))
            else:
                self.error = f"network.host: cannot listen on {address!r}: {error.strerror}; {interfaces.listed()}"

    def close(self) -> None:
        """Closes them."""
        self._listeners.close()


def network(site: Site, doors: Doors) -> Finding:
    """Whether the daemon can listen where the site says, and others may connect to it there."""
    if doors.error:
        return Finding("interface", "failed", doors.error)
    return interface(site, doors.addresses[0].rpartition(":")[0].strip("[]"))


def of_a_node(site: Site) -> Finding:
    """What can be told from here of the interface of a daemon that runs in a job: on its node it is another one."""
    host = site.network.host
    with contextlib.suppress(ConfigError, ValueError):  # there is none here, or its address is not known
        address = interfaces.resolve(host)
        if is_loopback(address):  # it is everywhere
            return interface(site, address)
    told = f"network.host: {host!r} is one of a compute node, since the daemon runs in a job"
    return Finding("interface", "skipped", f"{told}; hpcserve site check looks at it from the job that it submits")


def is_loopback(address: str) -> bool:
    """Whether other hosts cannot reach it."""
    return ipaddress.ip_address(address).is_loopback


def interface(site: Site, address: str) -> Finding:
    """Whether others may connect to the address that ``network.host`` stands for."""
    host = site.network.host
    if host in interfaces.names() and interfaces.is_down(host):
        return Finding("interface", "failed", f"network.host: interface {host} is down; name another one")
    if is_loopback(address) and site.scheduler.kind != "local":
        told = f"network.host: {host!r} is {address}, which other hosts cannot reach"
        return Finding("interface", "failed", f"{told}; name the interface that compute nodes reach")
    return Finding("interface", "ok", address if host == address else f"{host} is {address}")


def shared_dir(site: Site) -> Finding:
    """Whether files can be written there, and how many; makes it where it is missing, as the daemon would."""
    place = site.shared_dir
    try:
        # With parents=True these would be open to others, and no daemon would start in them.
        for missing in reversed([each for each in (place, *place.parents) if not each.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
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
