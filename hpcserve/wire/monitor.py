"""What the monitor of a socket tells. What follows from it is decided by those who watch.

pyzmq's own reader imports asyncio, which takes a replica or an agent longer than all else that it needs of pyzmq.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

_EVENT = struct.Struct("=Hi")


class SocketEvent(NamedTuple):
    """``event`` is one of ``zmq.Event``; what ``value`` is depends on it, often a descriptor."""

    event: int
    value: int


def decode_event(parts: Sequence[bytes]) -> SocketEvent:
    """What a monitor has sent in these two frames.

    Source: zmq_socket_monitor(3): 16 bits of event and 32 of value without padding, then the address.
    """
    return SocketEvent(*_EVENT.unpack(parts[0]))
