"""A real admission process, real clients, and a broker's internal socket held by the test."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from hpcserve.auth.authorized import authorize
from hpcserve.auth.keys import new_key_pair
from hpcserve.types import PilotId
from hpcserve.wire import hub
from hpcserve.wire.frames import encode
from hpcserve.wire.messages import Enrol, Enrolled, ErrorInfo, Hello, Refused, Welcome
from tests.integration.admission_house import HELLO, PATIENCE_S, House

STRUCK_OFF = ErrorInfo("unauthenticated", "this key was taken out of the service's list")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def test_a_known_key_is_let_in_and_a_stranger_is_told_how(house: House) -> None:
    house.open_hub()
    welcome = house.hello(house.known)
    assert isinstance(welcome, Welcome)
    assert (welcome.version, welcome.identity) == (1, "ada")
    assert house.heard == [house.ada(1)]
    stranger = new_key_pair()
    refused = house.hello(stranger)
    assert isinstance(refused, Refused)
    assert refused.error.code == "unauthenticated"
    assert f"YOUR-NAME {stranger.public_z85}" in refused.error.message
    authorize(house.list, "ben", stranger.public)
    assert house.hello(stranger).identity == "ben"


def test_versions_that_do_not_meet_are_refused(house: House) -> None:
    client = house.connect(house.known)
    client.send(encode(Hello((99,), "client 99")))
    assert house.answer(client).error.code == "version_mismatch"


def test_without_a_broker_a_client_is_told_to_come_back_within_seconds(house: House) -> None:
    refused = house.hello(house.known)
    assert refused.error.code == "unavailable"
    assert refused.error.retry_after_ms > 0
    house.open_hub()
    assert isinstance(house.hello(house.known), Welcome)


def test_a_broker_that_does_not_answer_is_not_waited_for(house: House) -> None:
    house.open_hub()
    assert house.hello(house.known, done=False).error.code == "unavailable"


def test_a_new_broker_is_told_the_keys_by_itself(house: House) -> None:
    house.open_hub()
    assert isinstance(house.hello(house.known), Welcome)
    house.close_hub()
    house.open_hub(epoch=2)
    house.hears(house.ada())


def test_a_key_that_is_struck_off_is_put_out(house: House) -> None:
    house.open_hub()
    assert isinstance(house.hello(house.known), Welcome)
    house.list.write_text("")
    house.hears(hub.RevokeKey(house.known.public, STRUCK_OFF))
    assert house.hello(house.known).error.code == "unauthenticated"


def test_a_key_that_is_struck_off_while_admission_is_away_is_put_out(house: House) -> None:
    house.open_hub()
    assert isinstance(house.hello(house.known), Welcome)
    house.process.kill()
    house.process.communicate()
    house.list.write_text("")
    house.start()
    house.hears(hub.RevokeKey(house.known.public, STRUCK_OFF))


def test_an_agent_enrols_by_the_controllers_verdict(house: House) -> None:
    house.open_hub()
    enrol = encode(Enrol((1,), "agent", PilotId("p1"), "p1.1", "secret", "node1"))
    keys = new_key_pair()
    client = house.connect(keys)
    assert isinstance(house.hello(house.known), Welcome), "the line to the broker is up"
    client.send(enrol)
    assert isinstance(house.answer(client), Enrolled)
    ask = house.heard[-1]
    assert (ask.key, ask.pilot, ask.incarnation, ask.secret, ask.host) == (keys.public, "p1", "p1.1", "secret", "node1")
    client.send(enrol)
    assert house.answer(client, verdict=ErrorInfo("unauthenticated", "no")).error.message == "no"


def test_malformed_messages_are_refused_and_long_ones_dropped(house: House) -> None:
    house.open_hub()
    client = house.connect(house.known)
    for frames in ([b""], [b"\xff\xff"], [HELLO[:-1]], [HELLO, HELLO], [b"\xdd\xff\xff\xff\xff"]):
        client.send_multipart(frames)
        assert house.answer(client).error.code == "protocol"
    client.send_multipart([HELLO] + [b"x"] * 10_000)
    client.send(HELLO)
    assert isinstance(house.answer(client), Welcome), "the long message had no answer"
    large = house.connect(house.known)
    large.send(bytes(65 << 10))
    assert isinstance(house.hello(house.known), Welcome)
    assert not large.poll(0)


def test_those_who_say_nothing_lock_nobody_out(house: House) -> None:
    house.open_hub()
    host, port = house.address.removeprefix("tcp://").split(":")
    mute = [socket.create_connection((host, int(port))) for _ in range(500)]
    shaken = [house.connect() for _ in range(500)]
    began = time.monotonic()
    try:
        assert isinstance(house.hello(house.known), Welcome)
        assert time.monotonic() - began < 20
        for client in shaken:
            client.send(b"")
        assert isinstance(house.hello(house.known), Welcome)
    finally:
        for each in mute:
            each.close()


def test_the_wrong_service_key_lets_nobody_talk(house: House) -> None:
    client = house.context.socket(zmq.DEALER)
    house.sockets.append(client)
    client.linger = 0
    keys = new_key_pair()
    client.curve_publickey, client.curve_secretkey = keys.public, keys.secret
    client.curve_serverkey = new_key_pair().public
    monitor = client.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    client.connect(house.address)
    assert monitor.poll(5000)
    client.disable_monitor()
    monitor.close(linger=0)


def test_the_port_is_kept_or_reported_as_taken(house: House) -> None:
    port = int(house.address.rpartition(":")[2])
    first = house.process
    taken = house.start(ports=(port,))
    assert taken["error"]["code"] == "conflict"
    assert f"port {port}" in taken["error"]["message"]
    assert "admission_port" in taken["error"]["message"]
    assert house.process.wait(PATIENCE_S) == 1
    assert house.process.stdin is not None
    house.process.stdin.close()
    house.start(ports=(port, 0))
    assert not house.address.endswith(f":{port}")
    assert house.stop() == 0
    assert house.process.stdin is not None
    house.process.stdin.close()
    first.terminate()
    assert first.wait(PATIENCE_S) == 0
    assert first.stdin is not None
    first.stdin.close()
    house.start(ports=(port, 0))
    assert house.address.endswith(f":{port}")


def test_it_ends_with_its_parent(house: House) -> None:
    assert house.process.stdin is not None
    house.process.stdin.close()
    assert house.process.wait(PATIENCE_S) == 0


def test_its_memory_and_descriptors_are_bounded(house: House) -> None:
    memory, _ = resource.prlimit(house.process.pid, resource.RLIMIT_AS)
    assert 0 < memory < 4 << 30
    descriptors, most = resource.prlimit(house.process.pid, resource.RLIMIT_NOFILE)
    assert descriptors == most


def test_a_message_of_a_gigabyte_costs_its_sender_the_connection(house: House) -> None:
    house.open_hub()
    client = house.connect()
    monitor = client.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    frame = zmq.Frame(bytes(60_000), copy=False)  # sent again and again, never copied here
    for _ in range(20_000):
        client.send(frame, zmq.SNDMORE, copy=False)
    client.send(b"")
    assert monitor.poll(30_000)
    client.disable_monitor()
    monitor.close(linger=0)
    client.close()
    assert house.process.poll() is None
    assert isinstance(house.hello(house.known), Welcome)
