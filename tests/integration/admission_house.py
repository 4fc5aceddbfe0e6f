"""A real admission process, whose broker and whose clients are the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zmq

from hpcserve.auth.authorized import authorize
from hpcserve.auth.keys import KeyPair, load_or_create, new_key_pair
from hpcserve.auth.private import private_directory
from hpcserve.types import Epoch
from hpcserve.wire import hub
from hpcserve.wire.frames import decode_from_admission, decoder, encode
from hpcserve.wire.messages import ErrorInfo, Hello

PATIENCE_S = 60.0
HELLO = encode(Hello((1,), "test"))
Socket = zmq.Socket[bytes]


def until(condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


class House:
    """Admission in a process of its own, and the test as its broker and its clients."""

    def __init__(self, place: Path, *, site: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.environment = dict(environment or {})
        self.state = private_directory(place / "state")
        self.run = private_directory(place / "run")
        self.service = load_or_create(self.state / "keys" / "service.key")
        self.known = new_key_pair()
        self.list = self.state / "authorized_keys"
        authorize(self.list, "ada", self.known.public)
        self.site = place / "site.toml"
        self.site.write_text(f'state_dir = "{self.state}"\nshared_dir = "{place}"\n{site}')
        self.context: zmq.Context[Socket] = zmq.Context()
        self.sockets: list[Socket] = []
        self.hub: Socket | None = None
        self.heard: list[Any] = []
        self.log = place / "log"
        self.start()

    def start(self, ports: tuple[int, ...] = (0,)) -> dict[str, Any]:
        report, told = os.pipe()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hpcserve.daemon.admission", "--site", str(self.site)],
                stdin=subprocess.PIPE,
                stderr=log,
                env=os.environ | self.environment,
                pass_fds=(told,),
            )
        os.close(told)
        start = {"name": "admission", "epoch": 1, "runtime_dir": str(self.run), "record": "", "report_fd": told}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(start | {"ports": {"admission": ports}}).encode() + b"\n")
        self.process.stdin.flush()
        with os.fdopen(report) as lines:
            said: dict[str, Any] = json.loads(lines.readline())
        self.address = said.get("addresses", {}).get("admission", "")
        return said

    def open_hub(self, epoch: int = 1) -> None:
        """A broker that knows nothing, and answers."""
        self.hub = self.context.socket(zmq.ROUTER)
        self.hub.linger = 0
        self.hub.router_handover = True
        self.hub.bind(f"ipc://{self.run}/hub")
        self.epoch = Epoch(epoch)
        self.heard = []

    def close_hub(self) -> None:
        assert self.hub is not None
        self.hub.close()
        self.hub = None

    def serve_hub(self, *, done: bool = True, verdict: ErrorInfo | None = None) -> None:
        """Answers what admission has said until now."""
        while self.hub is not None and self.hub.poll(0):
            sender, header = self.hub.recv_multipart()
            assert sender == b"admission"
            if not header:
                self.hub.send_multipart([sender, encode(hub.BrokerUp(self.epoch))])
                continue
            message = decoder(hub.ToBroker)(header)
            self.heard.append(message)
            if isinstance(message, hub.AdmitKey) and done:
                self.hub.send_multipart([sender, encode(hub.Done(message.ticket))])
            if isinstance(message, hub.EnrolAsk):
                self.hub.send_multipart([sender, encode(hub.EnrolVerdict(message.ticket, verdict))])

    def connect(self, keys: KeyPair | None = None) -> Socket:
        keys = keys or new_key_pair()
        client = self.context.socket(zmq.DEALER)
        client.linger = 0
        client.curve_publickey, client.curve_secretkey = keys.public, keys.secret
        client.curve_serverkey = self.service.public
        client.connect(self.address)
        self.sockets.append(client)
        return client

    def answer(self, client: Socket, within_s: float = 5.0, **hub_answers: Any) -> Any:
        def look() -> list[bytes] | None:
            self.serve_hub(**hub_answers)
            return client.recv_multipart() if client.poll(0) else None

        (header,) = until(look, "an answer", within_s)
        return decode_from_admission(header)

    def hello(self, keys: KeyPair, within_s: float = 5.0, *, token: str = "", **hub_answers: Any) -> Any:
        client = self.connect(keys)
        client.send(encode(Hello((1,), "test", token)))
        return self.answer(client, within_s, **hub_answers)

    def ada(self, ticket: int = 0) -> hub.AdmitKey:
        """What the broker is told of the key that is on the list."""
        identity = hub.Identity("ada", self.known.public_z85)
        return hub.AdmitKey(self.known.public, "client", "ada", ticket, identity)

    def hears(self, message: object) -> None:
        def look() -> bool:
            self.serve_hub()
            return message in self.heard

        until(look, f"admission says {message}")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for each in self.sockets:
            each.close()
        if self.hub is not None:
            self.hub.close()
        self.context.term()
