"""The broker, whole and on real sockets: whose call goes through, while others change their minds."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from hpcserve.auth.keys import new_key_pair, to_z85
from hpcserve.core.access import Policy, Rules
from hpcserve.daemon.broker.broker import Broker
from hpcserve.daemon.broker.staging import Places
from hpcserve.types import Counter, DeploymentName, EndpointName, Epoch
from hpcserve.wire import hub
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decoder, encode
from tests.unit.core.exchange_desk import LIMITS

PATIENCE_MS = 60_000
FAILED = wire.ErrorInfo("deployment_failed", "let through")
"""What whoever is let through is told, as there is no replica."""
POLICY = Policy(call=Rules(("*",), ("id:eve",)), deploy=Rules(("*",)))


class Stage:
    """A broker in a thread, and the processes around it."""

    def __init__(self, place: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []
        self.keys, self.user = new_key_pair(), new_key_pair()
        broker = Broker(
            self.context, self.keys, LIMITS, Epoch(1), places=Places("/nowhere"), outbox_bytes=1 << 20, policy=POLICY
        )
        broker.front.socket.bind("tcp://127.0.0.1:*")
        self.front = broker.front.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.address = f"ipc://{place}/hub"
        broker.hub.socket.bind(self.address)
        self.lifeline, self.parent = os.pipe()
        gone = threading.Event()

        def run() -> None:
            broker.run(lambda: True, self.lifeline)
            gone.set()

        self.gone = gone
        threading.Thread(target=run, daemon=True).start()
        self.admission = self.process(b"admission")
        self.controller = self.process(b"controller")
        self.asked = 0

    def socket(self) -> zmq.Socket[bytes]:
        made = self.context.socket(zmq.DEALER)
        made.linger = 0
        self.sockets.append(made)
        return made

    def process(self, name: bytes) -> zmq.Socket[bytes]:
        made = self.socket()
        made.routing_id, made.probe_router = name, True
        made.connect(self.address)
        return made

    def close(self) -> None:
        for each in self.sockets:
            each.close()
        os.close(self.parent)
        assert self.gone.wait(60)
        os.close(self.lifeline)
        self.context.destroy(linger=0)

    def admit(self, *, lasts_s: float | None = None, **identity: Any) -> None:
        self.asked += 1
        known = hub.Identity("ann", id="ann", **identity)
        self.admission.send(encode(hub.AdmitKey(self.user.public, "client", "ann", self.asked, known, lasts_s)))
        hear(self.admission, hub.ToAdmission, hub.Done)

    def serve(self, *visible_to: str) -> None:
        access = hub.AccessRule("id:ada", "id:ada", visible_to)
        name = DeploymentName("m")
        route = hub.DeploymentRoute(name, {"run": hub.MethodRoute(True)}, "run", (), FAILED, access=access)
        self.controller.send(encode(hub.Routes({EndpointName("m"): name}, (route,))))
        self.controller.send(encode(hub.AskStats(self.asked)))
        hear(self.controller, hub.ToController, hub.Stats)

    def client(self) -> Caller:
        made = self.socket()
        made.curve_serverkey = self.keys.public
        made.curve_publickey, made.curve_secretkey = self.user.public, self.user.secret
        made.connect(self.front)
        made.send(encode(wire.Resume(1, os.urandom(16))))
        hear(made, wire.ToClient, wire.Resumed)
        return Caller(made)


class Caller:
    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.id = 0

    def call(self) -> str:
        """The code of the error that a call ends with."""
        self.id += 1
        self.socket.send(encode(wire.Request(Counter(self.id), "m", "run", msgspec.Raw(b"\x90"))))
        result = hear(self.socket, wire.ToClient, wire.Result)
        assert result.error is not None
        return str(result.error.code)


def hear(socket: zmq.Socket[bytes], kind: Any, wanted: type) -> Any:
    """The next message of the wanted type."""
    decode = decoder(kind)
    while socket.poll(PATIENCE_MS):
        message = decode(socket.recv_multipart()[0])
        if isinstance(message, wanted):
            return message
    raise AssertionError(f"no {wanted.__name__}")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    with contextlib.closing(made):
        yield made


def decisions(controller: zmq.Socket[bytes], count: int) -> list[hub.CallDecided]:
    found: list[hub.CallDecided] = []
    while len(found) < count:
        found += hear(controller, hub.ToController, hub.CallsDecided).decisions
    return found


def test_who_leaves_a_group_is_out_with_the_next_call(stage: Stage) -> None:
    stage.serve("group:g1")
    stage.admit(groups=("g1",), token_sha256="ab" * 32)
    ann = stage.client()
    assert [ann.call() for _ in range(3)] == ["deployment_failed"] * 3
    stage.admit(groups=("g1",), token_sha256="cd" * 32)  # another token changes nothing
    assert ann.call() == "deployment_failed"
    for groups, said in (((), "unknown_endpoint"), (None, "unavailable")):
        stage.admit(groups=groups)
        assert ann.call() == said
    stage.admit(groups=("g1",))
    assert ann.call() == "deployment_failed"
    stage.admit(groups=("g1",), linked=("eve",))
    assert ann.call() == "unknown_endpoint"
    told = decisions(stage.controller, 5)
    assert [each.allowed for each in told] == [True, False, False, True, False]
    assert [each.request for each in told] == [1, 5, 6, 7, 8]
    assert told[0].asker.identity.key == to_z85(stage.user.public)
    assert told[0].asker.peer == "127.0.0.1"
    assert told[0].asker.identity.token_sha256 == "ab" * 32
    assert told[-1].by == "access.call.deny id:eve"


def test_another_visibility_holds_for_the_next_call_of_an_open_session(stage: Stage) -> None:
    stage.serve("*")
    stage.admit()
    ann = stage.client()
    said = []
    for visible_to in ((), ("id:ann",), ("id:bob",), ("*",)):
        stage.serve(*visible_to)
        said.append(ann.call())
    assert said == ["unknown_endpoint", "deployment_failed", "unknown_endpoint", "deployment_failed"]


def test_a_new_controller_is_told_what_the_one_before_had_not_noted(stage: Stage) -> None:
    stage.serve("*")
    stage.admit()
    stage.client().call()
    stage.client().call()
    first, _ = decisions(stage.controller, 2)
    stage.controller.send(encode(hub.DecisionsNoted(first.number)))
    stage.controller.send(encode(hub.AskStats(0)))
    hear(stage.controller, hub.ToController, hub.Stats)
    stage.controller.close()
    deadline = time.monotonic() + 60
    again = stage.process(b"controller")
    assert [each.number for each in decisions(again, 1)] == [first.number + 1]
    assert time.monotonic() < deadline


def test_a_key_that_nobody_renews_is_put_out_without_admission(stage: Stage) -> None:
    stage.serve("*")
    stage.admit()
    ann = stage.client()
    stage.admit(lasts_s=0.0)
    stage.admission.close()
    assert hear(ann.socket, wire.ToClient, wire.Refused).error.code == "unavailable"
