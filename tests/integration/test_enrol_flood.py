"""Strangers who ENROL with ever new keys, all the time: a pilot's agent is let in as if there were none."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from hpcserve import Client
from hpcserve.auth.keys import new_key_pair
from hpcserve.types import PilotId
from hpcserve.wire import admin
from hpcserve.wire.frames import decode_from_admission, encode
from hpcserve.wire.messages import Enrol, Refused
from hpcserve.wire.record import ServiceRecord, decode_record
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, Daemon, status, until

ENROL = encode(Enrol((1,), "stranger", PilotId("guessed"), "guessed", "guessed", "node1"))
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
        keys = new_key_pair()
        socket = context.socket(zmq.DEALER)
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_serverkey = self._record.public_key.encode()
        socket.connect(self._record.admission[0])
        for _ in range(10):
            socket.send(ENROL)
        return socket

    def _hear(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(10):
            if self.over.is_set() or not socket.poll(5000):
                return
            answer = decode_from_admission(socket.recv())
            if isinstance(answer, Refused) and answer.error.message == USED_UP:
                self.used_up.set()


@contextmanager
def flooded(daemon: Daemon) -> Iterator[None]:
    """Inside, strangers have used up what they may ask together, and go on."""
    flood = Flood(decode_record(daemon.record.read_bytes(), "the record"))
    thread = threading.Thread(target=flood.run)
    thread.start()
    try:
        assert flood.used_up.wait(60)
        yield
    finally:
        flood.over.set()
        thread.join(60)


def newcomers(client: Client, old: admin.PilotView) -> list[admin.PilotView]:
    """The pilots besides ``old`` whose agents have reported."""
    return [each for each in status(client).pilots if each.pilot != old.pilot and each.pid is not None]


def test_a_pilot_enrols_at_once_in_a_flood_of_strangers(new_daemon: NewDaemon) -> None:
    daemon = new_daemon().up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        daemon.replica_pids(client, "echo")
        (old,) = status(client).pilots
        assert old.pid is not None
        with flooded(daemon):
            os.kill(old.pid, signal.SIGKILL)
            until(lambda: newcomers(client, old), "another pilot's agent reports")
            (new,) = newcomers(client, old)
        (log,) = client.call("logs", admin.AskLogs(name=new.pilot), admin.Logs).logs
        assert "enrolled" in log.text
        assert USED_UP not in log.text
