"""What the controller hands to an agent, an agent to a replica that it starts, and what the replica says back.

The controller writes one :class:`Enrolment` as a JSON file of mode 0600 for each pilot job; the agent
deletes it once it is enrolled.

The agent writes one :class:`ReplicaStart` as a JSON line to the replica's standard input and keeps that
pipe open: its end of file tells the replica that its agent is gone. The replica writes one
:class:`ReplicaSays` as a JSON line to the file descriptor ``report_fd``. Standard output and error are
the servable's own, for the log.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a pilot job's agent must know besides the service record.

    ``secret`` is good for one enrolment of this ``incarnation``. ``walltime_s`` counts from the agent's
    start. The logs of a replica take at most ``log_bytes`` below ``log_dir``.
    """

    pilot: str
    incarnation: str
    secret: str
    slots: int
    walltime_s: float
    orphan_s: float
    stop_grace_s: float
    log_dir: str
    log_bytes: int
    launcher: str = "process"


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
    hang_grace_s: float
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


def encode_enrolment(enrolment: Enrolment) -> bytes:
    """The enrolment as the file's content."""
    return msgspec.json.encode(enrolment) + b"\n"


def decode_enrolment(content: bytes) -> Enrolment:
    """The :class:`Enrolment` of a file's content.

    Raises:
        msgspec.MsgspecError: The content is something else.
    """
    return msgspec.json.decode(content, type=Enrolment)
