"""Two pumps, one pair of pipes between them, and sockets at both ends; one thread turns both, step by step."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator

import pytest

from hpcserve.client.pump import READ_BYTES, Pump
from hpcserve.wire.tunnel import Frame, Kind

STEPS = 20_000
MOST_HELD_BYTES = 4 << 20  # of all buffers on the way: those of two sockets, of a pipe, and what each pump has read


class Tunnel:
    """Near and far side. An OPEN at the near side connects to a socket that the far side makes."""

    def __init__(self) -> None:
        there, back = os.pipe(), os.pipe()
        self.descriptors = [*there, *back]
        self.reasons: dict[int, str] = {}
        self.near = Pump(back[0], there[1], lambda _: None, self.reasons.__setitem__)
        self.far = Pump(there[0], back[1], self._open, lambda _number, _reason: None)
        self.ends: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._opened: dict[int, socket.socket] = {}

    def connect(self, number: int) -> tuple[socket.socket, socket.socket]:
        """A connection through it: its end here, and its end there."""
        here, ours = socket.socketpair()
        self.near.say(Kind.OPEN, number, b"front")
        self.near.add(number, ours)
        self.until(lambda: number in self._opened)
        self.ends[number] = here, self._opened[number]
        for end in self.ends[number]:
            end.setblocking(False)
        return self.ends[number]

    def _open(self, frame: Frame) -> None:
        if frame.kind == Kind.OPEN:
            ours, self._opened[frame.channel] = socket.socketpair()
            self.far.add(frame.channel, ours)

    def step(self) -> None:
        self.near.step(0)
        self.far.step(0)

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(STEPS):
            if condition():
                return
            self.step()
        raise AssertionError("it did not happen")

    def close(self) -> None:
        self.near.close()
        self.far.close()
        for pair in self.ends.values():
            for end in pair:
                end.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


@pytest.fixture
def tunnel() -> Iterator[Tunnel]:
    made = Tunnel()
    yield made
    made.close()


def sent(end: socket.socket, data: bytes) -> int:
    """How much of it the socket takes now."""
    with contextlib.suppress(BlockingIOError):
        return end.send(data)
    return 0


def received(end: socket.socket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return end.recv(1 << 20)
    return b""


def test_what_goes_in_comes_out_on_each_connection_both_ways(tunnel: Tunnel) -> None:
    dice = random.Random(5)
    pairs = [tunnel.connect(number) for number in (1, 2, 7)]
    ways = [way for near, far in pairs for way in ((near, far), (far, near))]
    given = [dice.randbytes(dice.randrange(3 * READ_BYTES)) for _ in ways]
    left, came = list(given), [b""] * len(ways)

    def all_came() -> bool:
        for index, (source, sink) in enumerate(ways):
            left[index] = left[index][sent(source, left[index][: dice.randrange(1, 1 << 17)]) :]
            came[index] += received(sink)
        return came == given

    tunnel.until(all_came)


def test_who_takes_nothing_holds_back_its_own_direction_alone(tunnel: Tunnel) -> None:
    near, far = tunnel.connect(1)
    taken, idle = 0, 0
    while idle < 50:
        size = sent(far, bytes(1 << 16))
        taken, idle = taken + size, 0 if size else idle + 1
        tunnel.step()
        assert taken < MOST_HELD_BYTES, "it is held back somewhere"
    near.send(b"the other way")
    tunnel.until(lambda: received(far) == b"the other way")
    came = 0

    def all_came() -> bool:
        nonlocal came
        came += len(received(near))
        return came == taken

    tunnel.until(all_came)


def test_what_was_sent_before_the_end_arrives_before_it(tunnel: Tunnel) -> None:
    near, far = tunnel.connect(1)
    far.setblocking(True)
    size = sent(far, bytes(100_000))
    far.close()
    tunnel.until(lambda: tunnel.near.channels == 0)
    near.setblocking(True)
    came = b""
    while part := near.recv(1 << 20):
        came += part
    assert len(came) == size
    assert tunnel.reasons == {1: ""}
    assert tunnel.far.channels == 0


def test_a_connection_that_is_refused_ends_with_the_reason(tunnel: Tunnel) -> None:
    near, _ = tunnel.connect(1)
    tunnel.far.say(Kind.CLOSE, 1, b"no daemon")
    tunnel.until(lambda: tunnel.reasons == {1: "no daemon"})
    near.setblocking(True)
    assert near.recv(1) == b""


def test_what_comes_for_a_connection_that_is_gone_is_dropped(tunnel: Tunnel) -> None:
    tunnel.far.say(Kind.DATA, 99, b"late")
    tunnel.far.say(Kind.CLOSE, 99)
    near, far = tunnel.connect(1)
    far.send(b"x")
    tunnel.until(lambda: received(near) == b"x")
    assert tunnel.near.ended is None


def test_what_is_no_frame_ends_the_tunnel_and_says_so(tunnel: Tunnel) -> None:
    os.write(tunnel.descriptors[3], b"\xff" * 20)
    tunnel.until(lambda: tunnel.near.ended is not None)
    assert "at most" in str(tunnel.near.ended)


def test_an_end_of_the_stream_is_an_end_without_a_reason() -> None:
    incoming, theirs = os.pipe()
    reader, outgoing = os.pipe()
    pump = Pump(incoming, outgoing, lambda _: None, lambda _number, _reason: None)
    os.close(theirs)
    pump.step(1)
    assert pump.ended == ""
    pump.close()
    for descriptor in (incoming, reader, outgoing):
        os.close(descriptor)
