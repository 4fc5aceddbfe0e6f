"""What an agent hands to a replica that it starts, and what the replica says back to it.

The agent writes one :class:`ReplicaStart` as a JSON line to the replica's standard input and keeps that
pipe open: its end of file tells the replica that its agent is gone. The replica writes one
:class:`ReplicaSays` as a JSON line to the file descriptor ``report_fd``. Standard output and error are
the servable's own, for the log.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class ReplicaStart(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a replica must know. ``secret_key`` never stands in its environment or arguments."""

    replica: str
    deployment: str
    version: str
    servable: str
    manifest: str
    record: str
    public_key: bytes
    secret_key: bytes
    outbox_bytes: int
    report_fd: int


class ReplicaSays(msgspec.Struct, frozen=True, kw_only=True):
    """``ready``: the servable's ``setup`` is done. ``failed``: it is not, and the replica ends."""

    state: Literal["ready", "failed"]
    cause: str = ""
    traceback: str = ""


def encode_line(message: ReplicaStart | ReplicaSays) -> bytes:
    """The message as one line of JSON."""
    return msgspec.json.encode(message) + b"\n"


def decode_start(line: bytes) -> ReplicaStart:
    """The :class:`ReplicaStart` of one line.

    Raises:
        msgspec.MsgspecError: The line is something else.
    """
    return msgspec.json.decode(line, type=ReplicaStart)


def decode_says(line: bytes) -> ReplicaSays:
    """The :class:`ReplicaSays` of one line.

    Raises:
        msgspec.MsgspecError: The line is something else.
    """
    return msgspec.json.decode(line, type=ReplicaSays)
