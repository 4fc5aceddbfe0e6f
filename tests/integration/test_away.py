"""A peer that falls silent, as one whose node has lost its power, is noticed though nobody writes to it.

And an agent that has nothing to say is told when it is not admitted any more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from hpcserve.auth import keys
from hpcserve.core.exchange import Limits
from hpcserve.daemon.broker.broker import Broker
from hpcserve.daemon.broker.sockets import BACK_HEARTBEAT, bind_file
from hpcserve.daemon.broker.staging import Places
from hpcserve.types import DeploymentName, Epoch, ReplicaId
from hpcserve.wire import hub
from hpcserve.wire.frames import decoder, encode

UNREACHABLE_S = 0.5
NOTICED_S = BACK_HEARTBEAT.every_ms / 1000 + BACK_HEARTBEAT.timeout_ms / 1000 + UNREACHABLE_S + 1.0
LIMITS = Limits(
    broker_bytes=1 << 20,
    session_bytes=1 << 20,
    max_queued=10,
    recovery_grace_s=1.0,
    session_linger_s=60.0,
    hang_grace_s=10.0,
    unreachable_s=UNREACHABLE_S,
)
PEER = """
import sys, zmq
from hpcserve.wire import messages as wire
from hpcserve.wire.agents import Report
from hpcserve.wire.frames import decode_to_agent, encode
address, server, public, secret, role, name = sys.argv[1:]
peer = zmq.Context().socket(zmq.DEALER)
peer.linger = 0
peer.curve_serverkey, peer.curve_publickey, peer.curve_secretkey = server.encode(), public.encode(), secret.encode()
peer.connect(address)
if role == "replica":
    said = wire.Inventory(wire.WIRE_VERSIONS[0], 0, 0, (), (), 2, 1000)
else:
    said = Report(name, "incarnation", "host", 1, 1, 60.0, ())
peer.send(encode(said))
while True:
    header = peer.recv_multipart()[0]
    if role == "agent" and isinstance(decode_to_agent(header), wire.Refused):
        sys.exit("refused")
"""


class Desk:
    """A broker in a thread, and its controller."""

    def __init__(self, directory: Path, context: zmq.Context[zmq.Socket[bytes]], stack: ExitStack) -> None:
        self.keys = keys.new_key_pair()
        self.stack = stack
        self.broker = Broker(context, self.keys, LIMITS, Epoch(1), outbox_bytes=1 << 20, places=Places("/nowhere"))
        port = self.broker.back.socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = {"tcp": f"tcp://127.0.0.1:{port}", "file": f"ipc://{directory}/back"}
        bind_file(self.broker.back.socket, f"{directory}/back")
        self.broker.hub.socket.bind(f"ipc://{directory}/hub")
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger, self.socket.routing_id, self.socket.probe_router = 0, b"controller", True
        self.socket.connect(f"ipc://{directory}/hub")
        self.away: dict[str, hub.Away] = {}
        self.admitted: dict[str, bytes] = {}
        self._decode = decoder(hub.ToController)

    def peer(self, role: str, name: str, way: str) -> subprocess.Popen[bytes]:
        """Starts a peer."""
        own = keys.new_key_pair()
        self.admitted[name] = own.public
        self.socket.send(encode(hub.AdmitKey(own.public, role, name)))
        arguments = [self.address[way], self.keys.public_z85, own.public_z85, own.secret_z85]
        process = subprocess.Popen([sys.executable, "-c", PEER, *arguments, role, name])
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def route(self, *replicas: str) -> None:
        named = tuple(map(ReplicaId, replicas))
        self.socket.send(encode(hub.Routes({}, (hub.DeploymentRoute(DeploymentName("d"), {}, "", named),))))

    def hear(self, kind: type, until: float) -> object:
        """The next message of this kind."""
        while self.socket.poll(max(0, int((until - time.monotonic()) * 1000))):
            message = self._decode(self.socket.recv())
            if isinstance(message, hub.Away):
                self.away.setdefault(message.subject, message)
            if isinstance(message, kind):
                return message
        raise AssertionError(f"no {kind.__name__} came in time")

    def connected(self) -> set[str]:
        self.socket.send(encode(hub.AskStats(1)))
        stats = self.hear(hub.Stats, time.monotonic() + 10)
        assert isinstance(stats, hub.Stats)
        return {each.replica for each in stats.replicas if each.connected}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack, serving(tmp_path, stack) as desk:
        yield desk


@contextmanager
def serving(directory: Path, stack: ExitStack) -> Iterator[Desk]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    desk = Desk(directory, context, stack)
    over = threading.Event()
    read, write = os.pipe()
    thread = threading.Thread(target=desk.broker.run, args=(over.is_set, read))
    thread.start()
    try:
        yield desk
    finally:
        over.set()
        os.write(write, b"x")
        thread.join(10)
        desk.socket.close()
        context.destroy(linger=0)
        os.close(read)
        os.close(write)


def test_who_falls_silent_on_the_network_is_reported_and_who_stands_still_here_is_not(desk: Desk) -> None:
    far, near = desk.peer("replica", "far", "tcp"), desk.peer("replica", "near", "file")
    agent = desk.peer("agent", "pilot", "tcp")
    desk.route("far", "near")
    desk.hear(hub.AgentSays, time.monotonic() + 20)
    until = time.monotonic() + 20
    while desk.connected() != {"far", "near"}:
        assert time.monotonic() < until
    for each in (far, near, agent):
        each.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    while desk.away.keys() != {"far", "pilot"}:
        desk.hear(hub.Away, stopped + NOTICED_S)
    assert {each.role for each in desk.away.values()} == {"replica", "agent"}
    assert all(away.for_s >= UNREACHABLE_S for away in desk.away.values())
    assert desk.connected() == {"near"}


def test_an_agent_that_is_let_in_and_does_not_come_is_reported(desk: Desk) -> None:
    desk.socket.send(encode(hub.AdmitKey(bytes(32), "agent", "pilot")))
    away = desk.hear(hub.Away, time.monotonic() + 10)
    assert isinstance(away, hub.Away)
    assert (away.subject, away.role) == ("pilot", "agent")
    assert away.for_s >= LIMITS.recovery_grace_s


def test_an_agent_whose_key_is_revoked_is_told_so(desk: Desk) -> None:
    agent = desk.peer("agent", "pilot", "tcp")
    desk.hear(hub.AgentSays, time.monotonic() + 20)
    desk.socket.send(encode(hub.RevokeKey(desk.admitted["pilot"])))
    assert agent.wait(20) == 1
