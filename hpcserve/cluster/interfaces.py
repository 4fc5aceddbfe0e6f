"""The network interfaces of this host: which there are, and which address each has.

Decides nothing about which of them a daemon uses: that is ``network.host`` of its site. Linux tells the addresses;
elsewhere none are known, and the name of an interface is left to libzmq, which knows it too.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from pathlib import Path

from hpcserve.errors import ConfigError

_NAME_BYTES = 15
# Source: netdevice(7) and <linux/sockios.h>: struct ifreq is a name of 16 bytes, here followed by a sockaddr_in.
_GET_ADDRESS = 0x8915
_IFREQ = struct.Struct("16s2xH4s16x")
# Source: <linux/if_addr.h> and the kernel's net/ipv6/addrconf.c: a scope, and addresses that may not be used (yet).
_IF_INET6 = Path("/proc/net/if_inet6")
_LINK_LOCAL = 0x20
_UNUSABLE = 0x08 | 0x40


def names() -> list[str]:
    """The names of all interfaces of this host."""
    return [name for _, name in socket.if_nameindex()]


def addresses(interface: str) -> list[str]:
    """The numeric addresses of an interface that others may connect to, IPv4 before IPv6; none if it has none."""
    found = [_ipv4(interface)] if sys.platform == "linux" else []
    return [each for each in (*found, *_ipv6(interface)) if each]


def resolve(host: str) -> str:
    """The numeric address of this host that ``host`` stands for: a name of an interface, of this host, or an address.

    Raises:
        ConfigError: It is nothing of the kind, or an interface without an address.
    """
    if not host:
        raise ConfigError(f"network.host is empty; {listed()}")
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host.strip("[]")))
    if host in names() and sys.platform != "linux":
        return host
    if host in names():
        usable = addresses(host)
        if not usable:
            raise ConfigError(f"network.host: interface {host} has no address; {listed()}")
        return usable[0]
    try:
        told = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"network.host: {host!r} is no interface, and no name or address; {listed()}") from error
    return str(told[0][4][0])


def listed() -> str:
    """The interfaces with their addresses, as the end of an error."""
    told = [f"{name} ({', '.join(addresses(name)) or 'no address'})" for name in names()]
    return f"this host has the interfaces {', '.join(told)}"


def is_down(interface: str) -> bool:
    """Whether an interface is known to be out of use."""
    with contextlib.suppress(OSError):  # not Linux
        return Path(f"/sys/class/net/{interface}/operstate").read_text().strip() == "down"
    return False


def endpoint(address: str, port: int | str) -> str:
    """``ADDRESS:PORT``, with brackets around an IPv6 address."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _ipv4(interface: str) -> str:
    """The first IPv4 address of an interface; empty if it has none."""
    import fcntl

    name = interface.encode()
    if len(name) > _NAME_BYTES:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked.fileno(), _GET_ADDRESS, _IFREQ.pack(name, 0, b""))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
                return ""
            raise
    return socket.inet_ntoa(_IFREQ.unpack(answer)[2])


def _ipv6(interface: str) -> list[str]:
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:  # this host has no IPv6
        return []
    found = []
    for line in lines:
        address, _index, _prefix, scope, flags, name = line.split()
        if name == interface and int(scope, 16) != _LINK_LOCAL and not int(flags, 16) & _UNUSABLE:
            found.append(str(ipaddress.IPv6Address(int(address, 16))))
    return found
