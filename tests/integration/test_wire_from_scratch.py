"""A client from nothing but ``docs/reference/wire.md``: pyzmq, msgpack, and plain lists. It imports nothing of ours."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, until

UP = 0x1000  # ZMQ_EVENT_HANDSHAKE_SUCCEEDED
FAILED = 0x0800 | 0x2000 | 0x4000
DOWN = 0x0200  # ZMQ_EVENT_DISCONNECTED
PATIENCE_S = 60.0

pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode
Request = tuple[list[Any], list[bytes]]


class Refused(Exception):
    pass


class TinyClient:
    """All that the page asks of a client, and no more."""

    def __init__(self, record: Path, public: bytes, secret: bytes) -> None:
        self.record, self.public, self.secret = record, public, secret
        self.nonce = os.urandom(16)
        self.session = b""
        self.next_id = 1
        self.outstanding: dict[int, Request] = {}
        self.settled: set[int] = set()
        self.results: dict[int, tuple[list[Any], list[bytes]]] = {}
        self.times: Counter[int] = Counter()
        self.answers: dict[int, list[Any]] = {}
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket: zmq.Socket[bytes] | None = None
        self.connect()

    # --- connections ---

    def open(self, address: str, server: str) -> bool:
        """One TCP connection; False when nobody is there."""
        self.drop()
        self.socket = socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.immediate = True
        socket.reconnect_ivl = -1
        socket.tcp_keepalive, socket.tcp_keepalive_cnt, socket.tcp_maxrt = 1, 3, 20000
        socket.tcp_keepalive_idle = socket.tcp_keepalive_intvl = 5
        socket.curve_serverkey = server.encode()
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret
        self.monitor = socket.get_monitor_socket(UP | FAILED | DOWN)
        socket.connect(address)
        if not self.monitor.poll(5000):
            return False
        return int(recv_monitor_message(self.monitor)["event"]) == UP

    def drop(self) -> None:
        if self.socket is not None:
            self.socket.disable_monitor()
            self.monitor.close(linger=0)
            self.socket.close(linger=0)
            self.socket = None

    def connect(self) -> None:
        """Reads the record, says hello and resume, and tries again until somebody is there."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            service = json.loads(self.record.read_text())
            if not self.open(service["admission"][0], service["public_key"]) or self.socket is None:
                time.sleep(0.05)
                continue
            self.socket.send(pack(["hello", [1], "tiny 1.0"]))
            if not self.socket.poll(5000):
                continue
            answer = unpack(self.socket.recv())
            if answer[0] == "refused":
                self.close()
                raise Refused(answer[1][:2])
            self.welcome = answer
            if not self.open(service["front"][0], service["public_key"]):
                time.sleep(0.05)
                continue
            self.resume()
            return
        raise AssertionError("no daemon")

    def resume(self) -> None:
        self.send(["resume", self.welcome[1], self.nonce, self.floor, sorted(self.outstanding)])

    def close(self) -> None:
        self.drop()
        self.context.term()

    # --- requests ---

    @property
    def floor(self) -> int:
        return min(self.outstanding, default=self.next_id)

    def send(self, header: list[Any], frames: list[bytes] | None = None) -> None:
        if self.socket is not None:
            self.socket.send_multipart([pack(header), *(frames or [])], zmq.NOBLOCK)

    def request(self, endpoint: str, method: str, specs: list[Any], frames: list[bytes], **named: Any) -> int:
        acks = sorted(self.settled)
        id, floor = self.next_id, self.floor
        self.next_id += 1
        header = ["request", id, endpoint, method, specs, named.get("parameters", {}), named.get("remaining_ms")]
        header += [0, 0, None, "inline", floor, acks]
        if id % 2:  # as it likes
            header, frames = [*header, frames], []
        self.outstanding[id] = (header, frames)
        self.send(header, frames)
        return id

    def call(self, verb: str, **body: Any) -> list[Any]:
        self.send(["call", 77, verb, body])
        self.read_until(lambda: 77 in self.answers)
        return self.answers.pop(77)

    def settle(self, id: int) -> None:
        self.outstanding.pop(id, None)
        self.settled = {each for each in self.settled | {id} if each >= self.floor}

    def wait(self, id: int) -> tuple[list[Any], list[bytes]]:
        self.read_until(lambda: id in self.results)
        return self.results[id]

    def read_until(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            self.read()

    def read(self) -> None:
        """What comes, or the end of the connection."""
        assert self.socket is not None
        if self.socket.poll(20):
            frames = self.socket.recv_multipart()
            self.hear(unpack(frames[0]), frames[1:])
        elif self.monitor.poll(0) and recv_monitor_message(self.monitor)["event"] != UP:
            self.connect()

    def hear(self, header: list[Any], frames: list[bytes]) -> None:
        kind = header[0]
        if kind == "resumed":
            self.session, self.epoch = header[3], header[2]
        elif kind == "result":
            assert header[1] == self.session
            if header[2] in self.outstanding:  # else it came twice
                self.settle(header[2])
                self.times[header[2]] += 1
                self.results[header[2]] = (header, header[10] or frames)
        elif kind == "again":
            for id in header[1]:
                if id in self.outstanding:
                    request, body = self.outstanding[id]
                    self.send([*request[:8], 1, *request[9:11], self.floor, [], *request[13:]], body)
        elif kind == "who":
            self.resume()
        elif kind == "answer":
            self.answers[header[1]] = header
        elif kind == "refused":
            raise Refused(header[1][:2])
        else:
            assert kind == "ping"


@pytest.fixture(scope="module")
def key(daemon: Daemon) -> tuple[bytes, bytes]:
    """A key of its own, let in by a line in ``authorized_keys``."""
    public, secret = zmq.curve_keypair()
    with (daemon.state / "authorized_keys").open("a") as file:
        file.write(f"tiny {public.decode()}\n")
    return public, secret


@pytest.fixture(scope="module")
def served(daemon: Daemon) -> Daemon:
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        daemon.deploy(client, SERVABLES / "tally", replicas=2)
        daemon.replica_pids(client, "tally", at_least=2)
    return daemon


@pytest.fixture
def tiny(served: Daemon, key: tuple[bytes, bytes]) -> Iterator[TinyClient]:
    def admitted() -> TinyClient | None:
        try:
            return TinyClient(served.record, *key)
        except Refused:
            return None  # admission has not read the list again yet

    made = until(admitted, "the key is let in")
    assert made is not None
    yield made
    made.close()


def test_it_is_welcomed_under_its_name_and_knows_its_session(tiny: TinyClient, key: tuple[bytes, bytes]) -> None:
    assert (tiny.welcome[0], tiny.welcome[1], tiny.welcome[3]) == ("welcome", 1, "tiny")
    tiny.read_until(lambda: tiny.session)
    digest = hashlib.blake2b(z85.decode(key[0]) + tiny.nonce, digest_size=16)
    assert tiny.session == digest.digest()


def test_numbers_travel_both_ways(tiny: TinyClient) -> None:
    x = np.array([0, 0.5, 1, -2], "<f4")
    header, frames = tiny.wait(tiny.request("echo", "echo", [["x", "float32", [4]]], [x.tobytes()]))
    assert header[4] is None
    assert header[3] == [["x", "float32", [4]]]
    assert frames == [x.tobytes()]
    assert header[5].startswith("echo-")


def test_an_empty_tensor_has_an_empty_frame(tiny: TinyClient) -> None:
    header, frames = tiny.wait(tiny.request("echo", "echo", [["x", "float32", [0]]], [b""]))
    assert (header[3], header[4], frames) == ([["x", "float32", [0]]], None, [b""])


def test_json_and_parameters_travel(tiny: TinyClient) -> None:
    body = json.dumps({"a": [1, None, "ä"]}).encode()
    id = tiny.request("echo", "value", [["value", "JSON", []]], [body], parameters={"wrap": "w"})
    header, frames = tiny.wait(id)
    assert header[4] is None
    assert json.loads(frames[0]) == {"w": {"a": [1, None, "ä"]}}


def test_what_is_left_out_has_its_default(tiny: TinyClient) -> None:
    tiny.next_id, id = tiny.next_id + 1, tiny.next_id
    header = ["request", id, "echo", "echo", [["x", "float32", [1]]]]
    tiny.outstanding[id] = (header, [])
    tiny.send(header, [struct.pack("<f", 7)])
    assert tiny.wait(id)[1] == [struct.pack("<f", 7)]


def test_what_a_later_version_adds_is_ignored(tiny: TinyClient) -> None:
    tiny.next_id, id = tiny.next_id + 1, tiny.next_id
    header = ["request", id, "echo", "echo", [["x", "float32", [1], "new"]]]
    header += [{}, None, 0, 0, None, "inline", 1, [], [], None, [], "new", {"more": 1}]
    tiny.outstanding[id] = (header, [])
    tiny.send(header, [struct.pack("<f", 7)])
    assert tiny.wait(id)[0][4] is None


def test_errors_have_the_codes_of_the_page(tiny: TinyClient) -> None:
    one = struct.pack("<f", 1)
    for endpoint, method, spec, frame, code in [
        ("ecco", "", ["x", "float32", [1]], one, "unknown_endpoint"),
        ("echo", "ecco", ["x", "float32", [1]], one, "unknown_method"),
        ("echo", "echo", ["x", "int32", [1]], one, "invalid_input"),
        ("echo", "echo", ["x", "float32", [2]], one, "protocol"),
    ]:
        header, frames = tiny.wait(tiny.request(endpoint, method, [spec], [frame]))
        assert header[4][0] == code
        assert frames == []


def test_a_deadline_passes_without_a_clock_in_common(tiny: TinyClient, tmp_path: Path) -> None:
    parameters = {"log": str(tmp_path / "log"), "sleep_s": 0.4}
    n = struct.pack("<q", 1)
    first = [tiny.request("tally", "again", [["n", "int64", []]], [n], parameters=parameters) for _ in range(4)]
    late = [
        tiny.request("tally", "again", [["n", "int64", []]], [n], parameters=parameters, remaining_ms=50)
        for _ in range(80)
    ]
    assert [tiny.wait(id)[0][4] for id in first] == [None] * 4
    codes = {tiny.wait(id)[0][4][0] for id in late[40:]}
    assert codes == {"deadline_exceeded"}


def test_status_is_a_map(tiny: TinyClient) -> None:
    answer = tiny.call("status")
    assert answer[2] is None
    assert {"echo", "tally"} == {each["deployment"] for each in answer[3]["deployments"]}


def test_an_unknown_key_is_refused(served: Daemon) -> None:
    with pytest.raises(Refused, match="unauthenticated"):
        TinyClient(served.record, *zmq.curve_keypair())


def test_it_survives_the_broker(tiny: TinyClient, served: Daemon, tmp_path: Path) -> None:
    parameters = {"log": str(tmp_path / "log"), "sleep_s": 0.002}
    ids = {
        tiny.request("tally", "again", [["n", "int64", []]], [struct.pack("<q", n)], parameters=parameters): n
        for n in range(300)
    }
    tiny.read_until(lambda: len(tiny.results) >= 50)
    epoch = tiny.epoch
    served.kill("broker")
    tiny.read_until(lambda: len(tiny.results) >= 300)
    assert tiny.epoch > epoch
    for id, n in ids.items():
        assert tiny.results[id][1] == [struct.pack("<q", n)]
        assert tiny.times[id] == 1
    runs = Counter(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())
    assert runs == Counter({str(n): 1 for n in range(300)})
