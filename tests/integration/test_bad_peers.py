"""Peers that break the protocol, or never speak: they are refused, and the others are served all the while."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from hpcserve import Client
from hpcserve.auth.keys import CLIENT_KEY, KeyPair, load, new_key_pair
from hpcserve.client.services import Service
from hpcserve.daemon.broker.hub import MOST_OF_ONE
from hpcserve.errors import AuthenticationError
from hpcserve.types import Counter, EndpointName, Nonce
from hpcserve.wire import admin
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import MAX_HEADER_BYTES, MAX_TENSORS, encode, raw
from hpcserve.wire.record import ServiceRecord, decode_record
from hpcserve.wire.tensor import pack
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, status, until

OVERRIDES = {"budgets": {"session_bytes": 16_000_000, "broker_bytes": 64_000_000}}
ONE = np.ones(1, np.float32)
UP, FAILED = zmq.Event.HANDSHAKE_SUCCEEDED, zmq.Event.HANDSHAKE_FAILED_AUTH
ANY = zmq.Event.ALL
Message = list[bytes]


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, EXAMPLES / "echo")
        daemon.deploy(made, SERVABLES / "tally")
        daemon.replica_pids(made, "tally")
        yield made


@pytest.fixture(autouse=True)
def _serves_as_before(client: Client, daemon: Daemon) -> Iterator[None]:
    """No process of the daemon dies of a peer, and others are answered at once."""
    assert client.infer("echo.echo", ONE, timeout_s=10)["x"] == 1
    before = [daemon.pid_of(name) for name in ("broker", "admission", "controller")]
    yield
    assert client.infer("echo.echo", ONE, timeout_s=5)["x"] == 1
    assert [daemon.pid_of(name) for name in ("broker", "admission", "controller")] == before


@pytest.fixture
def record(daemon: Daemon) -> ServiceRecord:
    return decode_record(daemon.record.read_bytes(), "record")


@pytest.fixture
def known(daemon: Daemon) -> KeyPair:
    """The key of this home's client, which has been admitted already."""
    return load(daemon.home / CLIENT_KEY)


class Peer:
    """A DEALER that says what it likes."""

    def __init__(self, address: str, server: str, keys: KeyPair, **options: Any) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = -1
        self.socket.set_hwm(0)
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.curve_serverkey = server.encode()
        self.socket.curve_publickey, self.socket.curve_secretkey = keys.public, keys.secret
        self.monitor = self.socket.get_monitor_socket()
        self.socket.connect(address)

    def handshake(self) -> int:
        """How the handshake ended."""
        ends = UP | FAILED | zmq.Event.DISCONNECTED | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
        ends |= zmq.Event.HANDSHAKE_FAILED_PROTOCOL
        while self.monitor.poll(8000):
            event = int(recv_monitor_message(self.monitor)["event"])
            if event & ends:
                return event
        raise AssertionError("the handshake did not end")

    def ended(self) -> bool:
        """Whether the connection is gone."""
        while self.monitor.poll(0):
            if recv_monitor_message(self.monitor)["event"] == zmq.Event.DISCONNECTED:
                return True
        return False

    def say(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def hear(self, within_s: float = 5.0) -> Any:
        """The next message's header as a plain list, or None. A ``ping`` says nothing."""
        until_s = time.monotonic() + within_s
        while self.socket.poll(max(0, int((until_s - time.monotonic()) * 1000))):
            header = msgspec.msgpack.decode(self.socket.recv_multipart()[0])
            if header != ["ping"]:
                return header
        return None

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.context.destroy(linger=0)


@contextlib.contextmanager
def peer(address: str, server: str, keys: KeyPair, **options: Any) -> Iterator[Peer]:
    made = Peer(address, server, keys, **options)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def session(record: ServiceRecord, keys: KeyPair, **options: Any) -> Iterator[Peer]:
    """A peer on the front whose session has been resumed."""
    with peer(record.front[0], record.public_key, keys, **options) as made:
        assert made.handshake() == UP
        made.say(encode(wire.Resume(1, Nonce(os.urandom(16)))))
        answer = made.hear()
        assert answer[0] == "resumed"
        yield made


def request(id: int, endpoint: str = "echo", method: str = "echo", x: Any = ONE, **named: Any) -> Message:
    specs, frames = pack({"": x})
    header = wire.Request(Counter(id), EndpointName(endpoint), method, specs)
    if named:
        header = msgspec.structs.replace(header, **named)
    return [encode(header), *(bytes(frame) for frame in frames)]


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


REQUEST = request(1)[0]
MALFORMED = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "a number": b"\x05",
    "a map": b"\x81\xa1a\x01",
    "an array that claims 4 G elements": b"\xdd\xff\xff\xff\xff" + REQUEST[1:],
    "a map that claims 4 G entries": b"\x95\xa7request\x01\xa4echo\xa0\xdf\xff\xff\xff\xff",
    "a text that claims 4 GB": b"\x95\xa7request\x01\xdb\xff\xff\xff\xff",
    "bytes that claim 4 GB": b"\x93\xa6resume\x01\xc6\xff\xff\xff\xff",
    "nested without end": b"\x91" * 100_000,
    "nested parameters": b"\x96\xa7request\x01\xa4echo\xa0\x90" + b"\x81\xa1a" * 50_000 + b"\xc0",
    "an unknown kind": msgspec.msgpack.encode(["reqest", 1, "echo", "", []]),
    "a replica's kind": msgspec.msgpack.encode(["inventory", 1, 0, 0, [], [], 100, 100]),
    "a daemon's kind": msgspec.msgpack.encode(["admit", b"x" * 32, "client", "eve"]),
    "too few elements": msgspec.msgpack.encode(["request", 1]),
    "a wrong type": msgspec.msgpack.encode(["request", "1", "echo", "", []]),
    "text that is no UTF-8": b"\x95\xa7request\x01\xa4\xff\xfe\xff\xfe\xa0\x90",
    "a header that is too long": msgspec.msgpack.encode(["call", 1, "x" * MAX_HEADER_BYTES, {}]),
}


# --- malformed messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_is_refused_with_a_reason(record: ServiceRecord, known: KeyPair, header: bytes) -> None:
    with session(record, known) as bad:
        bad.say(header)
        answer = bad.hear()
        assert answer is not None
        error = answer[1] if answer[0] == "refused" else answer[4]
        assert error[0] == "protocol"
        assert error[1]


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_first_message_harms_nobody(record: ServiceRecord, known: KeyPair, header: bytes) -> None:
    with peer(record.front[0], record.public_key, known) as bad:
        assert bad.handshake() == UP
        bad.say(header)
        assert bad.hear()[0] in ("refused", "who")


def test_every_truncation_of_a_message_is_refused(record: ServiceRecord, known: KeyPair) -> None:
    resume = encode(wire.Resume(1, Nonce(b"n" * 16), 1, ()))
    with session(record, known) as bad:
        for whole in (request(1)[0][:35], resume, encode(wire.Ack(1, ()))):
            for length in range(len(whole)):
                bad.say(whole[:length])
                assert bad.hear()[0] in ("refused", "who")


@pytest.mark.parametrize("count", [MAX_TENSORS + 1, 10_000])
def test_a_message_of_too_many_frames_is_refused(record: ServiceRecord, known: KeyPair, count: int) -> None:
    with session(record, known) as bad:
        bad.say(*request(1), *[b""] * count)
        answer = bad.hear(20)
        assert answer[0] == "refused"
        assert answer[1][0] == "protocol"


@pytest.mark.parametrize(
    "frames",
    [
        [REQUEST],
        [*request(1), b"more"],
        [REQUEST, b"abc"],
        [
            encode(
                wire.Request(Counter(1), EndpointName("echo"), "echo", msgspec.Raw(b"\x91\x93\xa1x\xa7float32\x91\xff"))
            )
        ],
        [encode(wire.Request(Counter(1), EndpointName("echo"), "echo", msgspec.Raw(b"\xc0"))), b"abcd"],
        [
            encode(
                wire.Request(
                    Counter(1),
                    EndpointName("echo"),
                    "echo",
                    msgspec.Raw(msgspec.msgpack.encode([["x", "float32", [1 << 62, 1 << 62]]])),
                )
            ),
            b"abcd",
        ],
        [
            encode(
                wire.Request(
                    Counter(1),
                    EndpointName("echo"),
                    "echo",
                    msgspec.Raw(msgspec.msgpack.encode([["x", "pickle", [1]]])),
                )
            ),
            b"abcd",
        ],
    ],
    ids=["too few", "too many", "too short", "negative", "nil", "huge claim", "unknown dtype"],
)
def test_tensors_that_do_not_match_their_description_fail_their_request_alone(
    record: ServiceRecord, known: KeyPair, frames: Message
) -> None:
    with session(record, known) as bad:
        bad.say(*frames)
        answer = bad.hear()
        if answer[0] == "result":
            assert answer[2] == 1
            assert answer[4][0] in ("protocol", "invalid_input")
            bad.say(*request(2))
            assert bad.hear()[4] is None
        else:
            assert answer[1][0] == "protocol"


def test_a_frame_larger_than_the_budget_ends_the_connection_unread(
    record: ServiceRecord, known: KeyPair, daemon: Daemon
) -> None:
    session_bytes = OVERRIDES["budgets"]["session_bytes"]
    with session(record, known) as bad:
        bad.say(request(1)[0], bytes(session_bytes))
        assert bad.hear()[0] in ("result", "refused")
    before = rss_bytes(daemon.pid_of("broker"))
    with session(record, known) as bad:
        bad.say(request(1)[0], bytes(8 * session_bytes))
        assert bad.hear(2) is None
        until(bad.ended, "the daemon hangs up")
    assert rss_bytes(daemon.pid_of("broker")) - before < session_bytes


def test_many_gaps_among_the_acknowledgements_hold_up_nobody(record: ServiceRecord, known: KeyPair) -> None:
    with session(record, known) as bad:
        for first in (400_000, 200_000, 2):
            bad.say(encode(wire.Ack(1, tuple(map(Counter, range(first + 2 * 90_000, first, -2))))))
        assert bad.hear()[1][0] == "protocol"


@pytest.mark.parametrize("frames", [[b"more"], []], ids=["and frames", "too many"])
def test_what_is_enclosed_is_bounded(record: ServiceRecord, known: KeyPair, frames: Message) -> None:
    enclosed = (b"abcd",) if frames else (b"",) * (MAX_TENSORS + 1)
    with session(record, known) as bad:
        bad.say(request(1, enclosed=enclosed)[0], *frames)
        answer = bad.hear()
        assert (answer[0], answer[1][0]) == ("refused", "protocol")


def test_one_client_pushes_out_nobodys_calls(record: ServiceRecord, known: KeyPair, daemon: Daemon) -> None:
    controller = daemon.pid_of("controller")
    os.kill(controller, signal.SIGSTOP)
    try:
        with session(record, known) as other, session(record, known) as bad:
            other.say(encode(wire.Call(1, "status", raw(admin.AskStatus()))))
            for id in range(MOST_OF_ONE + 1):
                bad.say(encode(wire.Call(id, "status", raw(admin.AskStatus()))))
            answer = bad.hear()
            assert (answer[:2], answer[2][0]) == (["answer", MOST_OF_ONE], "overloaded")
            os.kill(controller, signal.SIGCONT)
            answer = other.hear(20)
            assert answer[:3] == ["answer", 1, None]
    finally:
        os.kill(controller, signal.SIGCONT)


def test_a_chosen_routing_id_is_not_listened_to(record: ServiceRecord, known: KeyPair) -> None:
    for name in (b"controller", b"a", b"12345"):
        with peer(record.front[0], record.public_key, known, routing_id=name) as bad:
            assert bad.handshake() == UP
            bad.say(encode(wire.Resume(1, Nonce(b"n" * 16))))
            assert bad.hear(0.3) is None


# --- before admission ---------------------------------------------------------------------------------------


def test_data_before_admission_is_not_let_in(record: ServiceRecord) -> None:
    with peer(record.front[0], record.public_key, new_key_pair()) as stranger:
        assert stranger.handshake() != UP
        assert stranger.hear(0.3) is None


def test_admission_takes_no_data(record: ServiceRecord, known: KeyPair) -> None:
    for frames in (request(1), [encode(wire.Resume(1, Nonce(b"n" * 16)))], *([each] for each in MALFORMED.values())):
        with peer(record.admission[0], record.public_key, known) as bad:
            assert bad.handshake() == UP
            bad.say(*frames)
            answer = bad.hear(0.5)
            assert answer is None or (answer[0], answer[1][0]) == ("refused", "protocol")


def test_a_hello_of_ten_thousand_frames_or_versions_harms_nobody(record: ServiceRecord, known: KeyPair) -> None:
    hello = encode(wire.Hello((1,), "test"))
    for frames in ([hello, *[b"x" * 1000] * 10_000], [msgspec.msgpack.encode(["hello", list(range(9000)), "x"])]):
        with peer(record.admission[0], record.public_key, known) as bad:
            assert bad.handshake() == UP
            bad.say(*frames)
            bad.hear(1.0)


@pytest.mark.parametrize("where", ["back", "front"])
def test_a_client_is_no_replica_and_a_replica_no_client(record: ServiceRecord, known: KeyPair, where: str) -> None:
    keys = known if where == "back" else new_key_pair()
    with peer(getattr(record, where)[0], record.public_key, keys) as bad:
        assert bad.handshake() != UP


def test_an_agent_without_a_secret_is_not_enrolled(record: ServiceRecord) -> None:
    with peer(record.admission[0], record.public_key, new_key_pair()) as bad:
        assert bad.handshake() == UP
        bad.say(msgspec.msgpack.encode(["enrol", [1], "test", "pilot-1", "i", "s", "h"]))
        answer = bad.hear(15)
        assert (answer[0], answer[1][0]) == ("refused", "unauthenticated")


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_wrong_service_key_is_an_error_within_five_seconds(daemon: Daemon, tmp_path: Path) -> None:
    other = new_key_pair().public_z85
    text = msgspec.json.decode(daemon.record.read_bytes())
    forged = tmp_path / "service.json"
    forged.write_bytes(msgspec.json.encode(text | {"public_key": other}))
    began = time.monotonic()
    with daemon.environment(), pytest.raises(AuthenticationError, match="key"):
        Client(Service(forged))
    with daemon.environment(), pytest.raises(AuthenticationError, match="pinned"):
        Client(Service(daemon.record, public_key=other))
    assert time.monotonic() - began < 5


def test_an_unknown_client_key_is_an_error_within_five_seconds(daemon: Daemon) -> None:
    began = time.monotonic()
    with pytest.raises(AuthenticationError, match="authorized_keys"):
        Client(Service(daemon.record))  # in the test's own home, with a new key
    assert time.monotonic() - began < 5


# --- silence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["admission", "front"])
def test_five_hundred_connections_that_say_nothing_harm_nobody(
    client: Client, daemon: Daemon, record: ServiceRecord, where: str
) -> None:
    address = urlsplit(getattr(record, where)[0])
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((address.hostname, address.port), 10)) for _ in range(500)
        ]
        with daemon.client() as other:
            for n in range(50):
                assert other.infer("echo.echo", np.full(1, n, np.float32), timeout_s=5)["x"] == n
                assert client.infer("echo.echo", ONE, timeout_s=5)["x"] == 1
        # The handshake has a time limit: nobody holds a descriptor of the daemon by saying nothing.
        for each in silent:
            each.settimeout(20)
        until(lambda: all(_is_closed(each) for each in silent), "the daemon gave them up", within_s=20)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side has hung up; what it said before is read."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def test_two_hundred_strangers_that_never_say_hello_harm_nobody(daemon: Daemon, record: ServiceRecord) -> None:
    keys = new_key_pair()
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(peer(record.admission[0], record.public_key, keys, reconnect_ivl=-1))
            for _ in range(200)
        ]
        for each in silent:
            assert each.handshake() == UP
        with daemon.client() as other:
            assert other.infer("echo.echo", ONE, timeout_s=5)["x"] == 1


# --- those that do not read -----------------------------------------------------------------------------------


def test_a_client_that_stops_reading_does_not_grow_the_broker(
    client: Client, daemon: Daemon, record: ServiceRecord, known: KeyPair
) -> None:
    broker = daemon.pid_of("broker")
    before = rss_bytes(broker)
    with session(record, known, rcvhwm=1, rcvbuf=4096) as lazy:
        for id in range(1, 101):
            lazy.say(*request(id, "tally", "blob", np.int64(2_000_000)))
        until(lambda: status(client).held_bytes > 8_000_000, "results are on their way")
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            assert client.infer("echo.echo", ONE, timeout_s=5)["x"] == 1
            assert rss_bytes(broker) - before < 60_000_000
            assert status(client).held_bytes < 20_000_000
        # As soon as it reads and acknowledges, it gets everything.
        got: set[int] = set()
        while len(got) < 100:
            answer = lazy.hear(10)
            assert answer is not None, f"{len(got)} of 100"
            assert answer[4] is None
            got.add(answer[2])
            lazy.say(encode(wire.Ack(1, (Counter(answer[2]),))))
    assert got == set(range(1, 101))


def test_a_client_that_vanishes_gives_its_memory_back(client: Client, record: ServiceRecord, known: KeyPair) -> None:
    with session(record, known) as lost:
        for id in range(1, 7):
            lost.say(*request(id, "tally", "measure", np.zeros(2_000_000, np.uint8), parameters=_sleep(0.5)))
        until(lambda: status(client).held_bytes > 8_000_000, "the requests are held")
    until(lambda: status(client).held_bytes < 100_000, "they are given up after the linger", within_s=15)
    until(lambda: status(client).sessions == 1, "its session is over")


def test_what_nobody_will_run_is_given_up_with_its_client(
    client: Client, daemon: Daemon, record: ServiceRecord, known: KeyPair
) -> None:
    daemon.deploy(client, EXAMPLES / "echo", replicas=0, endpoint="nobody")
    with session(record, known) as lost:
        lost.say(*request(1, "nobody", "blob", np.zeros(8_000_000, np.uint8)))
        until(lambda: status(client).held_bytes > 8_000_000, "the request is held")
    until(lambda: status(client).held_bytes < 100_000, "it is given up after the linger", within_s=15)
    client.call("undeploy", admin.Undeploy(endpoint="nobody"), admin.Undeployed)


def _sleep(seconds: float) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode({"sleep_s": seconds}))


def test_an_error_says_what_the_peer_did(record: ServiceRecord, known: KeyPair) -> None:
    with session(record, known) as bad:
        bad.say(msgspec.msgpack.encode(["resume", 1, b"short"]))
        answer = bad.hear()
        assert answer[1][0] == "protocol"
        assert "nonce has 5 bytes" in answer[1][1]
    with session(record, known) as bad:
        bad.say(msgspec.msgpack.encode(["resume", 99, b"n" * 16]))
        assert bad.hear()[1][0] == "version_mismatch"
