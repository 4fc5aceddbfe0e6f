"""Several connections over one pair of byte streams: what a client and ``hpcserve connect`` say to each other by ssh.

The far side says a greeting, one line, which may have a shell's chatter before it. The near side answers with the
version to speak, one line. From then on both send frames. What they carry is opaque here: CURVE is spoken through them,
end to end. A side that cannot take more stops reading; there are no credits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec

from hpcserve.errors import ProtocolError, VersionMismatch
from hpcserve.wire.messages import ErrorInfo
from hpcserve.wire.record import ServiceRecord

TUNNEL_VERSIONS = (1,)
"""The versions of this format that this program speaks, the best one first."""

MARKER = b"hpcserve-connect-greeting "
"""What a greeting begins with. What stands before it was printed by others."""

ANSWER = b"hpcserve-connect-version "
"""What the near side's answer begins with."""

MAX_GREETING_BYTES = 1 << 16
MAX_PAYLOAD_BYTES = 1 << 20
"""No frame is longer."""

HEADER = struct.Struct(">BII")
"""Kind, channel, length of the payload in bytes."""


class Kind(IntEnum):
    """What a frame is. A receiver passes over kinds that it does not know."""

    OPEN = 1
    DATA = 2
    CLOSE = 3
    READ = 4
    RECORD = 5
    PING = 6
    PONG = 7


class Frame(NamedTuple):
    """A frame, or of DATA a part of one."""

    kind: int
    channel: int
    payload: bytes


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """What the far side found: the service's record, or why there is none."""

    versions: tuple[int, ...]
    software: str
    record: ServiceRecord | None = None
    error: ErrorInfo | None = None


class _Versions(msgspec.Struct):
    versions: tuple[int, ...]
    software: str


def encode_greeting(greeting: Greeting) -> bytes:
    """The greeting as JSON, without line breaks."""
    return msgspec.json.encode(greeting)


def decode_greeting(content: bytes) -> Greeting:
    """The greeting that this JSON says.

    Raises:
        VersionMismatch: The two sides have no version in common.
        ProtocolError: It is no greeting.
    """
    try:
        spoken = msgspec.json.decode(content, type=_Versions)
        if common_version(spoken.versions) is None:
            raise VersionMismatch(_apart(spoken))
        return msgspec.json.decode(content, type=Greeting)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a greeting of hpcserve connect: {error}") from error


def common_version(spoken: tuple[int, ...]) -> int | None:
    """The best version that both sides speak."""
    return next((each for each in TUNNEL_VERSIONS if each in spoken), None)


def _apart(spoken: _Versions) -> str:
    newer = max(spoken.versions, default=0) > max(TUNNEL_VERSIONS)
    return (
        f"{spoken.software} there speaks the versions {list(spoken.versions)} of the tunnel, this program "
        f"{list(TUNNEL_VERSIONS)}: upgrade hpcserve {'here' if newer else 'there'}"
    )


class Preamble:
    """Looks for the line that begins with a marker, in whatever comes before it.

    Attributes:
        before: What came before it, without an end that may be the marker's beginning.
    """

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self._held = b""
        self._found = False
        self.before = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The rest of the line, and what came after it; None as long as it is not whole.

        Raises:
            ProtocolError: The line does not end.
        """
        self._held += data
        if not self._found:
            chatter, marker, rest = self._held.partition(self._marker)
            if not marker:
                kept = len(self._marker) - 1
                self.before = (self.before + self._held[:-kept])[-MAX_GREETING_BYTES:]
                self._held = self._held[-kept:]
                return None
            self._found, self._held = True, rest
            self.before += chatter
        line, end, rest = self._held.partition(b"\n")
        if not end:
            if len(line) > MAX_GREETING_BYTES:
                raise ProtocolError(f"a line of more than {MAX_GREETING_BYTES} bytes after {self._marker.decode()!r}")
            return None
        return line, rest

    def chatter(self) -> bytes:
        """What was printed, where no such line comes any more."""
        return self.before if self._found else self.before + self._held


class Decoder:
    """Bytes to frames. DATA is handed on as it comes, everything else whole."""

    def __init__(self) -> None:
        self._held = b""
        self._data_channel = 0
        self._data_left = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames, and parts of DATA, that are known now.

        Raises:
            ProtocolError: What came is no frame.
        """
        held = self._held + data if self._held else data
        at, end = 0, len(held)
        while True:
            if self._data_left:
                part = held[at : at + self._data_left]
                if not part:
                    break
                at += len(part)
                self._data_left -= len(part)
                yield Frame(Kind.DATA, self._data_channel, part)
                continue
            if end - at < HEADER.size:
                break
            kind, channel, length = HEADER.unpack_from(held, at)
            if length > MAX_PAYLOAD_BYTES:
                raise ProtocolError(f"a frame of {length} bytes: at most {MAX_PAYLOAD_BYTES} are allowed")
            if kind == Kind.DATA:
                at += HEADER.size
                self._data_channel, self._data_left = channel, length
                continue
            if end - at < HEADER.size + length:
                break
            at += HEADER.size
            yield Frame(kind, channel, held[at : at + length])
            at += length
        self._held = held[at:]


def header(kind: Kind, channel: int, length: int) -> bytes:
    """A frame's beginning."""
    return HEADER.pack(kind, channel, length)


def decode_answer(line: bytes) -> int:
    """The version that the near side has chosen.

    Raises:
        ProtocolError: It is no version that we speak.
    """
    if line.isdigit() and int(line) in TUNNEL_VERSIONS:
        return int(line)
    raise ProtocolError(f"expected one of the versions {list(TUNNEL_VERSIONS)} of the tunnel, got {line[:80]!r}")
