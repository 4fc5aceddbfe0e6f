"""An agent or a replica that tries to come back to a daemon of which nothing is left but its host's kernel, or nothing.

Another daemon has its place meanwhile, and waits for them for ``recovery_grace_s``.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from hpcserve.config import RETRY_S, Recovery
from hpcserve.pilot import link as agents
from hpcserve.pilot.watch import Watch
from hpcserve.replica.link import Link
from tests.integration.agent_rig import FakeDaemon, Pilot, record_at
from tests.unanswered import unanswered

GRACE_S = Recovery().recovery_grace_s
HELD_S = 25.0
"""libzmq itself waits 30 s for a handshake, and the kernel two minutes for a connection."""


@contextlib.contextmanager
def standing_still() -> Iterator[int]:
    """The port of a process that is stopped: its kernel accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def record_of(port: int) -> bytes:
    return record_at(port, port, public_key=zmq.curve_keypair()[0].decode())


Old = Callable[[], contextlib.AbstractContextManager[int]]


@pytest.mark.parametrize("old", [standing_still, unanswered])
def test_a_replica_finds_the_new_daemon_before_it_is_given_up(tmp_path: Path, old: Old) -> None:
    record = tmp_path / "service.json"
    public, secret = zmq.curve_keypair()
    with contextlib.ExitStack() as stack:
        record.write_bytes(record_of(stack.enter_context(old())))
        context = stack.enter_context(zmq.Context())
        link = Link(context, record, public, secret)
        stack.callback(link.close)
        link.connect()
        daemon = FakeDaemon(record)
        stack.callback(daemon.close)
        daemon.allowed.add(z85.decode(public))

        def is_up() -> bool:
            link.connect()
            link.watch()
            return link.is_up

        daemon.serve(is_up, "the replica is connected", HELD_S)


@pytest.mark.parametrize("old", [standing_still, unanswered])
def test_an_agent_finds_the_new_daemon_before_it_is_given_up(tmp_path: Path, old: Old) -> None:
    record = tmp_path / "service.json"
    now = time.monotonic()
    watch, enrolled = Watch(), []
    with contextlib.ExitStack() as stack:
        record.write_bytes(record_of(stack.enter_context(old())))
        link = agents.Link(
            record=record,
            enrolment=Pilot(tmp_path).enrolment,
            enrolled=lambda: enrolled.append(True),
            ears=agents.Ears(up=lambda: None, asked=lambda: None, orders=lambda _: None),
            watch=watch,
            clock=lambda: now,
            dice=random.Random(7),
        )
        stack.callback(link.close, 0.0)
        link.tick(now)
        daemon = FakeDaemon(record)
        stack.callback(daemon.close)
        for _ in range(2):  # it is given up, and after a pause the record is read anew
            now += (GRACE_S - RETRY_S) / 2
            link.tick(now)

        def is_enrolled() -> bool:
            watch.turn(0.01)
            return bool(enrolled)

        daemon.serve(is_enrolled, "the agent is enrolled")
