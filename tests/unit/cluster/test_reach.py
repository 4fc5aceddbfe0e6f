"""Why an address cannot be reached is told apart, by real connections where this host can have them."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from hpcserve.cluster.reach import Kind, obstacle, reach, split
from tests.unanswered import unanswered


@pytest.fixture
def full() -> Iterator[str]:
    """The address of a host that answers no more: nothing comes back, as from behind a firewall that drops."""
    with unanswered() as port:
        yield f"127.0.0.1:{port}"


def kind_of(address: str, timeout_s: float = 5.0) -> Kind | None:
    found = reach(address, timeout_s)
    return None if found is None else found.kind


def test_what_drops_what_is_sent_is_told(full: str) -> None:
    found = reach(full, 0.2)
    assert found is not None
    assert (found.kind, found.told.partition(":")[0]) == ("dropped", "nothing came back within 0.2 s")


def test_what_is_accepted_and_swallowed_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert kind_of(f"127.0.0.1:{mute.getsockname()[1]}", 0.2) == "silent"


def test_where_nobody_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert kind_of(f"127.0.0.1:{port}") == "refused"


@pytest.mark.parametrize("name", ["no such name", "a" * 300])
def test_a_name_that_nobody_knows_is_told(name: str) -> None:
    found = reach(f"{name}:1")
    assert found is not None
    assert (found.kind, found.told) == ("unresolvable", f"the name {name} cannot be resolved")


def test_what_does_not_speak_zeromq_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            with other.accept()[0] as accepted:
                accepted.sendall(b"SSH-2.0-x\r\n")

        greeter = threading.Thread(target=greet)
        greeter.start()
        assert kind_of(f"127.0.0.1:{other.getsockname()[1]}") == "foreign"
        greeter.join()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EHOSTUNREACH, "rejected"),
        (errno.ENETUNREACH, "rejected"),
        (errno.EACCES, "rejected"),
        (errno.ECONNREFUSED, "refused"),
        (errno.ETIMEDOUT, "dropped"),
        (errno.EADDRNOTAVAIL, "other"),
    ],
)
def test_what_a_firewall_may_send_back_is_told_apart(number: int, kind: Kind) -> None:
    found = obstacle(OSError(number, os.strerror(number)), "there", 5.0)
    assert found.kind == kind
    assert found.told


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("tcp://10.0.0.1:77", ("10.0.0.1", 77)),
        ("10.0.0.1:77", ("10.0.0.1", 77)),
        ("tcp://[fd77::5]:77", ("fd77::5", 77)),
        ("login1:77", ("login1", 77)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split(address) == parts
