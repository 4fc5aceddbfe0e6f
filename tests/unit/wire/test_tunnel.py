"""The tunnel's greeting and frames, in whatever pieces they come."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hpcserve.errors import ProtocolError, VersionMismatch
from hpcserve.wire.messages import ErrorInfo
from hpcserve.wire.tunnel import (
    MARKER,
    MAX_GREETING_BYTES,
    MAX_PAYLOAD_BYTES,
    TUNNEL_VERSIONS,
    Decoder,
    Greeting,
    Kind,
    Preamble,
    decode_answer,
    decode_greeting,
    encode_greeting,
    header,
)

GREETING = Greeting(versions=TUNNEL_VERSIONS, software="hpcserve 1", error=ErrorInfo("unavailable", "no daemon"))
FRAMES = st.lists(
    st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=300)), min_size=1, max_size=8
)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(FRAMES, st.lists(st.integers(0, 5000), max_size=12))
def test_frames_come_back_however_they_are_cut(frames: list[tuple[Kind, int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(header(kind, channel, len(payload)) + payload for kind, channel, payload in frames)
    decoder = Decoder()
    found: list[tuple[int, int, bytes]] = []
    for piece in pieces(stream, cuts):
        for frame in decoder.feed(piece):
            if frame.kind != Kind.DATA:
                found.append((frame.kind, frame.channel, frame.payload))
            elif found and found[-1][:2] == (Kind.DATA, frame.channel):
                found[-1] = (Kind.DATA, frame.channel, found[-1][2] + frame.payload)
            else:
                found.append((frame.kind, frame.channel, frame.payload))
    # Of DATA, the bytes of a channel in their order are what counts, not how they are divided.
    expected: list[tuple[int, int, bytes]] = []
    for kind, channel, payload in frames:
        if kind == Kind.DATA and not payload:
            continue
        if kind == Kind.DATA and expected and expected[-1][:2] == (Kind.DATA, channel):
            expected[-1] = (kind, channel, expected[-1][2] + payload)
        else:
            expected.append((kind, channel, payload))
    assert found == expected


def test_a_kind_of_a_later_version_is_a_frame_too() -> None:
    assert [frame.payload for frame in Decoder().feed(b"\x63" + header(Kind.PING, 0, 2)[1:] + b"xy")] == [b"xy"]


def test_what_is_no_frame_is_refused_and_not_waited_for() -> None:
    with pytest.raises(ProtocolError, match=f"at most {MAX_PAYLOAD_BYTES}"):
        list(Decoder().feed(b"motd: the machine is down on Tuesday"))


@given(st.binary(max_size=200), st.binary(max_size=50), st.lists(st.integers(0, 2000), max_size=10))
def test_the_greeting_is_found_after_any_chatter(chatter: bytes, rest: bytes, cuts: list[int]) -> None:
    assume((chatter + MARKER).index(MARKER) == len(chatter))  # hypothesis tries words of the program, too
    line = encode_greeting(GREETING)
    preamble, came, found = Preamble(MARKER), b"", None
    stream = chatter + MARKER + line + b"\n" + rest
    for piece in pieces(stream, cuts):
        if found is None:
            found = preamble.feed(piece)
        else:
            came += piece
    assert found is not None
    assert (found[0], found[1] + came) == (line, rest)
    assert preamble.chatter() == chatter
    assert decode_greeting(found[0]) == GREETING


def test_without_a_greeting_the_chatter_is_what_came() -> None:
    preamble = Preamble(MARKER)
    assert preamble.feed(b"Welcome\n" + MARKER[:-3]) is None
    assert preamble.chatter() == b"Welcome\n" + MARKER[:-3]


def test_a_greeting_that_does_not_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a line of more than"):
        Preamble(MARKER).feed(MARKER + b"x" * (MAX_GREETING_BYTES + 1))


@pytest.mark.parametrize(("versions", "where"), [([7, 9], "here"), ([], "there"), ([0], "there")])
def test_of_two_sides_that_are_too_far_apart_the_older_one_is_told(versions: list[int], where: str) -> None:
    # Nothing but the first two fields has to be as this version has them.
    line = msgspec.json.encode({"versions": versions, "software": "hpcserve 99", "record": "elsewhere"})
    with pytest.raises(VersionMismatch, match=f"hpcserve 99 there .*: upgrade hpcserve {where}$"):
        decode_greeting(line)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"versions":[1]}', b'{"versions":[1],"software":"x","record":3}'])
def test_what_is_no_greeting_is_told_as_such(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a greeting of hpcserve connect"):
        decode_greeting(line)


def test_the_answer_is_a_version_that_we_speak() -> None:
    assert decode_answer(b"%d" % TUNNEL_VERSIONS[0]) == TUNNEL_VERSIONS[0]
    for line in (b"", b"99", b"one", b"-1"):
        with pytest.raises(ProtocolError):
            decode_answer(line)
