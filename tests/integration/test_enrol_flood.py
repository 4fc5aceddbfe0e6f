"""Strangers who ENROL with ever new keys, all the time: a pilot's agent is let in as if there were none."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from msgspec.structs import replace

from hpcserve import Client
from hpcserve.auth.keys import new_key_pair
from hpcserve.types import PilotId
from hpcserve.wire import admin
from hpcserve.wire.frames import decode_from_admission, encode
from hpcserve.wire.launch import decode_enrolment, enrolment_name
from hpcserve.wire.messages import Enrol, Enrolled, Hello, Refused
from hpcserve.wire.record import ServiceRecord, decode_record
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, Daemon, command_of, status, until

ENROL = encode(Enrol((1,), "stranger", PilotId("guessed"), "guessed", "guessed", "node1"))
HELLO = encode(Hello((1,), "stranger"))
PATIENCE_MS = 10_000
USED_UP = "too many agents enrol at once"


class Flood:
    """Sends ENROLs from forty keys at a time, as many from each as one key may send at once."""

    def __init__(self, record: ServiceRecord) -> None:
        self.used_up = threading.Event()
        self.over = threading.Event()
        self._record = record

    def run(self) -> None:
        with zmq.Context[zmq.Socket[bytes]]() as context:
            while not self.over.is_set():
                strangers = [self._stranger(context) for _ in range(40)]
                for each in strangers:
                    self._hear(each)
                    each.close(linger=0)

    def _stranger(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        stranger = connected(context, self._record)
        for _ in range(10):
            stranger.send(ENROL)
        return stranger

    def _hear(self, stranger: zmq.Socket[bytes]) -> None:
        for _ in range(10):
            if self.over.is_set() or not stranger.poll(5000):
                return
            answer = decode_from_admission(stranger.recv())
            if isinstance(answer, Refused) and answer.error.message == USED_UP:
                self.used_up.set()


@contextmanager
def flooded(daemon: Daemon) -> Iterator[Flood]:
    """Inside, strangers have used up what they may ask together, and go on."""
    flood = Flood(decode_record(daemon.record.read_bytes(), "the record"))
    thread = threading.Thread(target=flood.run)
    thread.start()
    try:
        assert flood.used_up.wait(60)
        yield flood
    finally:
        flood.over.set()
        thread.join(60)


def agents(daemon: Daemon) -> list[int]:
    return [pid for pid in daemon.processes() if command_of(pid).startswith(f"{sys.executable} -P -m hpcserve.pilot ")]


@contextmanager
def newcomer(daemon: Daemon, client: Client) -> Iterator[int]:
    """The agent of another pilot, which is stopped and has said nothing yet. All know its secret."""
    (old,) = status(client).pilots
    assert old.pid is not None
    admission = daemon.pid_of("admission")
    os.kill(admission, signal.SIGSTOP)
    try:
        os.kill(old.pid, signal.SIGKILL)
        (agent,) = until(lambda: [pid for pid in agents(daemon) if pid != old.pid], "another agent starts")
        os.kill(agent, signal.SIGSTOP)
        # In a later turn than that in which admission was told of it.
        until(lambda: [each.state for each in status(client).pilots if each.pilot != old.pilot] == ["running"], "seen")
    finally:
        os.kill(admission, signal.SIGCONT)
    try:
        yield agent
    finally:
        with suppress(ProcessLookupError):  # where the daemon ended it
            os.kill(agent, signal.SIGCONT)


def enrol(daemon: Daemon, client: Client) -> Enrol:
    """What the newcomer will say."""
    (pilot,) = [each.pilot for each in status(client).pilots if each.state == "running"]
    known = decode_enrolment(Path(enrolment_name(str(daemon.shared / "enrolments" / pilot), 0)).read_bytes())
    return Enrol((1,), "agent", PilotId(pilot), known.incarnation, known.secret, socket.gethostname())


def holds_its_secret(daemon: Daemon, client: Client, flood: Flood) -> None:
    """All who know the secret are heard, though nothing is left to strangers: one of them might be lucky."""
    record = decode_record(daemon.record.read_bytes(), "the record")
    asked = replace(enrol(daemon, client), incarnation="another")
    with zmq.Context[zmq.Socket[bytes]]() as context, connected(context, record) as knocking:
        knocking.send(HELLO)  # now it is connected, and its next messages arrive at once
        assert knocking.poll(PATIENCE_MS)
        knocking.recv()
        flood.used_up.clear()
        assert flood.used_up.wait(60)
        for _ in range(8):
            knocking.send(encode(asked))
        for _ in range(8):
            assert knocking.poll(PATIENCE_MS)
            answer = decode_from_admission(knocking.recv())
            assert isinstance(answer, Refused)
            assert "another incarnation" in answer.error.message
        knocking.close(linger=0)


@pytest.mark.parametrize(
    "lost", [(), ("admission",), ("broker",), ("broker", "admission")], ids=lambda lost: "+".join(lost) or "nothing"
)
def test_a_pilot_enrols_at_once_in_a_flood_of_strangers(new_daemon: NewDaemon, lost: tuple[str, ...]) -> None:
    """Also where what told the strangers from it was lost after it was submitted."""
    daemon = new_daemon().up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        daemon.replica_pids(client, "echo")
        with newcomer(daemon, client) as agent:
            for name in lost:
                daemon.kill(name)
                daemon.pid_of(name)
                status(client)
            with flooded(daemon) as flood:
                holds_its_secret(daemon, client, flood)
                os.kill(agent, signal.SIGCONT)
                (new,) = until(lambda: [each for each in status(client).pilots if each.pid == agent], "it reports")
        (log,) = client.call("logs", admin.AskLogs(name=new.pilot), admin.Logs).logs
        assert "enrolled" in log.text
        assert USED_UP not in log.text


def test_false_enrols_that_arrive_at_once_leave_room_for_a_true_one(new_daemon: NewDaemon) -> None:
    """They are more than may be judged at a time, and the controller finds all of them when it looks."""
    daemon = new_daemon().up()
    record = decode_record(daemon.record.read_bytes(), "the record")
    with daemon.client() as client, zmq.Context[zmq.Socket[bytes]]() as context:
        daemon.deploy(client, EXAMPLES / "echo")
        daemon.replica_pids(client, "echo")
        with newcomer(daemon, client):
            true = enrol(daemon, client)
            controller = daemon.pid_of("controller")
            os.kill(controller, signal.SIGSTOP)
            try:
                strangers = [passed_on(context, record, ENROL, 9) for _ in range(4)]
                agent = passed_on(context, record, encode(true), 1)
            finally:
                os.kill(controller, signal.SIGCONT)
            assert agent.poll(PATIENCE_MS)
            assert isinstance(decode_from_admission(agent.recv()), Enrolled)
            for each in (*strangers, agent):
                each.close(linger=0)


def passed_on(
    context: zmq.Context[zmq.Socket[bytes]], record: ServiceRecord, message: bytes, times: int
) -> zmq.Socket[bytes]:
    """A connection whose messages admission has passed on: it has answered what came after them."""
    found = connected(context, record)
    for each in (*[message] * times, HELLO):
        found.send(each)
    assert found.poll(PATIENCE_MS)
    answer = decode_from_admission(found.recv())
    assert isinstance(answer, Refused)
    assert "does not know this key" in answer.error.message
    return found


def connected(context: zmq.Context[zmq.Socket[bytes]], record: ServiceRecord) -> zmq.Socket[bytes]:
    """A connection to admission, with a key of its own."""
    keys = new_key_pair()
    found = context.socket(zmq.DEALER)
    found.curve_publickey, found.curve_secretkey = keys.public, keys.secret
    found.curve_serverkey = record.public_key.encode()
    found.connect(record.admission[0])
    return found
