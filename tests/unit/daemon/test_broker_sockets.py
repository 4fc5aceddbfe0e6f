"""The broker's sockets: a peer that reads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from hpcserve.daemon.broker.sockets import receive, router, send

MOST_UNREAD = 100
UNREAD_BY_PEER = 10


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/front"


def test_a_peer_that_reads_nothing_is_sent_no_more_and_nobody_waits_for_it(address: str) -> None:
    with zmq.Context() as context, router(context, None, b"", most_unread=MOST_UNREAD) as front:
        front.bind(address)
        with context.socket(zmq.DEALER) as deaf, context.socket(zmq.DEALER) as other:
            deaf.rcvhwm = UNREAD_BY_PEER
            senders = []
            for peer in (deaf, other):
                peer.linger = 0
                peer.connect(address)
                peer.send(b"hello")
                assert front.poll(5000)
                message = receive(front)
                assert message is not None
                senders.append(message.sender)
            header = bytes(1 << 14)  # the kernel's own buffers are full soon
            taken = next(number for number in range(100_000) if not send(front, senders[0], header))
            assert MOST_UNREAD <= taken < 100 * MOST_UNREAD
            assert send(front, senders[1], b"welcome")
            assert other.poll(5000)
            assert deaf.recv() == header  # what was taken is not lost, and there is room again


def test_without_a_bound_everything_is_taken(address: str) -> None:
    with zmq.Context() as context, router(context, None, b"") as front, context.socket(zmq.DEALER) as deaf:
        front.bind(address)
        deaf.linger, deaf.rcvhwm = 0, UNREAD_BY_PEER
        deaf.connect(address)
        deaf.send(b"hello")
        assert front.poll(5000)
        message = receive(front)
        assert message is not None
        assert all(send(front, message.sender, b"result") for _ in range(50 * MOST_UNREAD))
