"""Why a host does not reach an address: what the operating system says of a connection, in words that help.

Decides nothing about what is to be done; :mod:`hpcserve.cluster.diagnosis` does, with what other hosts see.
"""

from __future__ import annotations

import errno
import socket
from typing import Literal

import msgspec

CONNECT_TIMEOUT_S = 5.0
_GREETING_BYTES = 10
_REJECTED = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EHOSTDOWN})

Kind = Literal["dropped", "silent", "refused", "rejected", "unresolvable", "foreign", "other"]
"""``dropped``: nothing came back at all; ``silent``: it was accepted, and then nothing came; ``foreign``: what
answers is something else."""


class Obstacle(msgspec.Struct, frozen=True):
    """Why an address cannot be reached: as one word, and as people say it."""

    kind: Kind
    told: str


def obstacle(error: OSError | UnicodeError, host: str, timeout_s: float) -> Obstacle:
    """What the failure of a connection says.

    Args:
        error: How it failed.
        host: Where it was to go to.
        timeout_s: How long an answer was waited for.
    """
    # Source: ip(7), tcp(7), icmp(7): what a firewall that rejects sends becomes one of these, too.
    if isinstance(error, socket.gaierror | UnicodeError):
        return Obstacle("unresolvable", f"the name {host} is not known there")
    number = error.errno
    if isinstance(error, TimeoutError) or number == errno.ETIMEDOUT:
        why = "a firewall drops what is sent, or no way leads there"
        return Obstacle("dropped", f"nothing came back within {timeout_s:g} s: {why}")
    if number in (errno.ECONNREFUSED, errno.ECONNRESET):
        return Obstacle("refused", "refused: nobody listens there, or a firewall rejects it")
    if number in _REJECTED:
        return Obstacle("rejected", f"rejected ({error.strerror}): a firewall rejects it, or no way leads there")
    return Obstacle("other", error.strerror or str(error))


def reach(address: str, timeout_s: float = CONNECT_TIMEOUT_S) -> Obstacle | None:
    """What keeps this host from the ZeroMQ socket at ``HOST:PORT``; None if nothing does.

    A ZeroMQ socket speaks first, so a firewall that accepts a connection and swallows it does not pass.
    """
    host, port = split(address)
    try:
        connection = socket.create_connection((host, port), timeout=timeout_s)
    except (OSError, UnicodeError) as error:
        return obstacle(error, host, timeout_s)
    with connection:
        try:
            greeting = connection.recv(_GREETING_BYTES)
        except TimeoutError:
            return Obstacle("silent", f"the connection is accepted, and nothing comes within {timeout_s:g} s")
        except OSError as error:
            return obstacle(error, host, timeout_s)
    if greeting[:1] == b"\xff":
        return None
    return Obstacle("foreign", f"something else than ZeroMQ answers: {greeting!r}")


def split(address: str) -> tuple[str, int]:
    """The host and the port of ``tcp://HOST:PORT`` or ``HOST:PORT``; an IPv6 address loses its brackets."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)
