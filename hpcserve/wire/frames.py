"""Headers to bytes and back, with the limits that a receiver keeps.

A header that is not msgpack, not of a known kind, or of the wrong types raises ProtocolError with the
reason. What a receiver does then (drop the message, end the session) is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from hpcserve.errors import BY_CODE, HpcserveError, ProtocolError, VersionMismatch
from hpcserve.wire import agents, messages
from hpcserve.wire.messages import WIRE_VERSIONS, ErrorInfo

MAX_HEADER_BYTES = 1 << 20
"""A longer header from a client, or from anyone at admission, is refused unread."""

MAX_OWN_HEADER_BYTES = 256 << 20
"""The same for what the daemon and its replicas and agents say to each other and to clients: it lists whole states."""

MAX_TENSORS = 256
"""Most tensor frames in one message."""

ENCLOSED_BYTES = 4096
"""Tensors that have so many bytes together, or fewer, are sent inside the header."""

T = TypeVar("T")

encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
"""Any message of :mod:`hpcserve.wire` as header bytes."""


def decoder(kind: Any, limit_bytes: int = MAX_OWN_HEADER_BYTES) -> Callable[[bytes | memoryview], Any]:
    """Makes the function that turns header bytes into one of the structs of ``kind``.

    Args:
        kind: A struct class or a Union of them.
        limit_bytes: A longer header is refused unread.

    Returns:
        A function that raises ProtocolError for anything else than a header of ``kind``.
    """
    decode = msgspec.msgpack.Decoder(kind).decode

    def checked(header: bytes | memoryview) -> Any:
        if len(header) > limit_bytes:
            raise ProtocolError(f"header of {len(header)} bytes: at most {limit_bytes} are allowed")
        try:
            return decode(header)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"malformed header: {error}") from error

    return checked


decode_from_anyone = decoder(messages.FromAnyone, MAX_HEADER_BYTES)
decode_from_admission = decoder(messages.FromAdmission)
decode_from_client = decoder(messages.FromClient, MAX_HEADER_BYTES)
decode_to_client = decoder(messages.ToClient)
decode_from_pilot = decoder(agents.FromPilot)
decode_to_replica = decoder(messages.ToReplica)
decode_to_agent = decoder(agents.ToAgent)


def raw(value: object) -> msgspec.Raw:
    """``value`` as msgpack that is copied, not encoded again, into a header."""
    return msgspec.Raw(encode(value))


def from_raw(body: msgspec.Raw, kind: type[T]) -> T:
    """The value of ``kind`` that :func:`raw` packed.

    Raises:
        ProtocolError: ``body`` is something else.
    """
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed {kind.__name__}: {error}") from error


def enclose(frames: Sequence[bytes | bytearray | memoryview]) -> tuple[bytes, ...]:
    """The tensors' bytes for a header's ``enclosed``; nothing where they are to follow in frames of their own."""
    if len(frames) == 1 and type(frames[0]) is bytes:  # as most are
        return (frames[0],) if len(frames[0]) <= ENCLOSED_BYTES else ()
    return tuple(map(bytes, frames)) if sum(map(len, frames)) <= ENCLOSED_BYTES else ()


def agree(theirs: tuple[int, ...], their_software: str, our_software: str) -> int:
    """The wire version that both sides speak.

    Raises:
        VersionMismatch: There is none; the message names the side to upgrade.
    """
    for version in WIRE_VERSIONS:
        if version in theirs:
            return version
    older = their_software if max(theirs, default=0) < max(WIRE_VERSIONS) else our_software
    raise VersionMismatch(
        f"no common wire version: {their_software} speaks {list(theirs)}, {our_software} speaks "
        f"{list(WIRE_VERSIONS)}; upgrade {older}"
    )


def error_to_wire(error: HpcserveError) -> ErrorInfo:
    """The struct that stands for ``error`` in a header."""
    retry = None if error.retry_after_s is None else max(1, round(error.retry_after_s * 1000))
    return ErrorInfo(error.code, error.message, error.remote_traceback, retry, error.detail or None)


def error_from_wire(info: ErrorInfo) -> HpcserveError:
    """The exception that ``info`` stands for; an unknown code becomes a plain HpcserveError."""
    kind = BY_CODE.get(info.code, HpcserveError)
    retry = None if info.retry_after_ms is None else info.retry_after_ms / 1000
    return kind(info.message, retry_after_s=retry, remote_traceback=info.traceback, detail=info.detail)
