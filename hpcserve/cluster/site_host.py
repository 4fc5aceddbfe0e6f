"""Looks whether this host is as a site says: its network, its directories, its programs."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import zmq

from hpcserve.cluster import directories, interfaces
from hpcserve.cluster.finding import Finding
from hpcserve.config import MIB, Mpi, Site
from hpcserve.errors import ConfigError

LEAST_FREE_BYTES = 1024 * MIB
"""Servables, logs and results go to the shared directory."""
LEAST_STATE_BYTES = 64 * MIB
"""The store goes to the state directory."""
TRIED_BYTES = MIB
"""So much is written to see what a quota leaves, of which the file system itself does not tell."""


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
        self._network = network = site.network
        self._in_use: list[str] = []
        self._address = ""
        try:
            self._address = interfaces.resolve(network.host)
        except ConfigError as error:
            self.error = error.message
            return
        for port in self._wanted().values():
            if not self.error:
                self._open(network.ports(port))

    def lacking(self, own: Collection[str] = ()) -> str:
        """What keeps a daemon from having all its sockets at once, and what to do; empty if nothing does.

        Args:
            own: The addresses that it has already, or may have in place of another one.
        """
        network, wanted = self._network, self._wanted()
        for name, port in wanted.items():
            if port and self._at(port) in self._in_use and self._at(port) not in own:
                return (
                    f"port {port} of {network.host} is in use by another program: set [network] {name}_port in the "
                    "site file to a free port, or to 0 for any, or end that program"
                )
        needed = list(wanted.values()).count(0)
        ports = network.any_port
        found = [each for each in map(self._at, ports) if each in own or each in self._had()]
        if not network.port_range or len(found) >= needed:
            return ""
        return (
            f"{_many(len(found))} of the ports {ports[0]}-{ports[-1]} of {network.host} {_is(len(found))} free, and "
            f"the daemon needs {needed} of them: set [network] port_range in the site file to a wider range, or end a "
            "program that uses one of them"
        )

    def _wanted(self) -> dict[str, int]:
        network = self._network
        return {"admission": network.admission_port, "front": network.front_port, "back": network.back_port}

    def _at(self, port: int) -> str:
        return interfaces.endpoint(self._address, port)

    def _had(self) -> list[str]:
        return [each for each in self.addresses if each not in self._in_use]

    def _open(self, ports: Sequence[int]) -> None:
        try:
            self.addresses.append(self._listeners.open(self._address, ports))
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                others = [each for each in map(self._at, ports) if each not in self.addresses]
                self.addresses.append(others[-1] if others else self._at(ports[-1]))
                self._in_use.append(self.addresses[-1])
            else:
                self.error = (
                    f"network.host: cannot listen on {self._address!r}: {error.strerror}; {interfaces.listed()}"
                )

    @property
    def address(self) -> str:
        """Where they are, without the port."""
        return self.addresses[0].rpartition(":")[0].strip("[]")

    def close(self) -> None:
        """Closes them."""
        self._listeners.close()


def _many(number: int) -> str:
    return "none" if number == 0 else f"only {number}"


def _is(number: int) -> str:
    return "are" if number > 1 else "is"


def network(site: Site, doors: Doors) -> Finding:
    """Whether the daemon can listen where the site says, and others may connect to it there."""
    if doors.error:
        return Finding("interface", "failed", doors.error)
    return interface(site, doors.address)


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
        directories.make(place)
        free_bytes = _free_bytes(place)
    except OSError as error:
        return Finding("shared_dir", "failed", f"cannot write to {place}: {error}; set shared_dir to another place")
    return _judged("shared_dir", place, free_bytes, LEAST_FREE_BYTES)


def state_dir(site: Site) -> Finding:
    """Whether there is room for the daemon's own files; where it is missing, on the disk that it would be made on."""
    place = site.state_dir
    try:
        if not place.exists():
            above = next(each for each in place.parents if each.exists())
            found = _judged("state_dir", above, shutil.disk_usage(above).free, LEAST_STATE_BYTES)
            return found if found.outcome == "failed" else Finding("state_dir", "ok", f"{place} will be made")
        free_bytes = _free_bytes(place)
    except OSError as error:
        what = "make room on this disk or in your quota, or set state_dir to another place"
        return Finding("state_dir", "failed", f"cannot write to {place}: {error}; {what}")
    return _judged("state_dir", place, free_bytes, LEAST_STATE_BYTES)


def _free_bytes(place: Path) -> int:
    """What is free there, once a little was written.

    Raises:
        OSError: Nothing can be written: a disk or a quota may be full.
    """
    with tempfile.NamedTemporaryFile(dir=place) as file:
        file.write(bytes(TRIED_BYTES))
        file.flush()
        os.fsync(file.fileno())
        return shutil.disk_usage(place).free


def _judged(subject: str, place: Path, free_bytes: int, least_bytes: int) -> Finding:
    told = f"{place}, {free_bytes / 1e9:.1f} GB free"
    if free_bytes >= least_bytes:
        return Finding(subject, "ok", told)
    wanted = f"too little: at least {least_bytes / 1e9:.2g} GB are wanted"
    return Finding(subject, "failed", f"{told}, {wanted}; clean up, or set {subject} to another place")


def containers(site: Site) -> Iterator[Finding]:
    """Whether the container runtime's command is there, and what the site file names for it."""
    runtime = site.containers.runtime
    if runtime == "none":
        return
    command = site.containers.command
    setting = "containers.command" if command else "containers.runtime"
    yield _found("containers", setting, command or runtime, "correct the site file")
    yield from _lacking_for_containers(site)


def _lacking_for_containers(site: Site) -> Iterator[Finding]:
    for section, binds in (("containers", site.containers.binds), ("mpi", site.mpi.binds)):
        for source in (bind.partition(":")[0] for bind in binds):
            if not Path(source).exists():
                told = f"{section}.binds: there is no {source} on this host; make it, or correct the site file"
                yield Finding("containers", "failed", told)
    key = site.containers.signature_key
    if key and (why := _no_key(Path(key))):
        yield Finding("containers", "failed", f"containers.signature_key: {key} {why}; correct the site file")
    stage_dir = Path(site.containers.stage_dir) if site.containers.stage_dir else None
    if stage_dir is not None and not (stage_dir.is_dir() and os.access(stage_dir, os.W_OK | os.X_OK)):
        told = f"containers.stage_dir: {stage_dir} is no directory on this host that you may write to"
        if site.scheduler.kind == "local":
            yield Finding("containers", "failed", f"{told}; make it, or correct the site file")
        else:
            yield Finding("containers", "warning", f"{told}; nodes without it read images from where they lie")


def _no_key(key: Path) -> str:
    """What keeps a file from being a public key; empty if nothing does. Source: RFC 7468, section 13."""
    try:
        text = key.read_text(errors="replace")
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if "-----BEGIN PUBLIC KEY-----" in text else "is no public key in PEM, as Apptainer reads them"


def mpi(site: Site) -> Iterator[Finding]:
    """Whether the command is there that starts MPI ranks; srun's is Slurm's matter.

    A site that starts replicas on one node by itself, and names no command, need not have one.
    """
    launcher, command = site.pilots.launcher, site.mpi.command
    if launcher != "mpiexec" and (launcher != "process" or command == Mpi().command):
        return
    yield _found("mpi", "mpi.command", command, "set mpi.command to its whole path")


def _found(subject: str, setting: str, command: str, otherwise: str) -> Finding:
    """Where a command is that the site names by a setting."""
    place = shutil.which(command)
    if place is None:
        told = f"{setting}: no command {command!r} in PATH; load its module, or {otherwise}"
        return Finding(subject, "failed", told)
    return Finding(subject, "ok", place)
