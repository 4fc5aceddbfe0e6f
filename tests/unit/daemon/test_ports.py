"""The daemon's sockets get the first free port of those that they may have, at an address of this host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest
import zmq

from hpcserve.config import Network, read_site
from hpcserve.daemon.plans import ADMISSION, BROKER, daemon_plans
from hpcserve.daemon.ports import bind, counted
from hpcserve.errors import ConfigError, Conflict


@pytest.fixture
def router() -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.ROUTER) as opened:
        yield opened


def in_use(stack: ExitStack) -> int:
    """A port that somebody listens at."""
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    port = taken.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_the_first_free_one_is_taken(router: zmq.Socket[bytes]) -> None:
    with ExitStack() as stack:
        ports = (in_use(stack), in_use(stack), 0)
        host, port = bind(router, "front", "lo", ports).removeprefix("tcp://").split(":")
    assert host == "127.0.0.1"
    assert int(port) not in ports


def test_where_none_is_free_it_is_said_of_which(router: zmq.Socket[bytes]) -> None:
    with ExitStack() as stack:
        first, last = sorted((in_use(stack), in_use(stack)))
        told = f"none of the ports {first}-{last} of lo is free for the socket front: set .network. port_range in the"
        with pytest.raises(Conflict, match=told):
            bind(router, "front", "lo", (last, first))
        with pytest.raises(Conflict, match=f"port {first} of lo is in use .* front_port in the site file"):
            bind(router, "front", "lo", (first,))


def test_a_daemon_that_lacks_ports_says_which() -> None:
    failure, site = Conflict("none is free for the socket admission"), read_site("local")
    with ExitStack() as stack:
        taken = in_use(stack)
        lacks = msgspec.structs.replace(site, network=Network(front_port=taken))
        assert counted(failure, lacks).message.startswith(f"port {taken} of 127.0.0.1 is in use by another program")
        assert counted(ConfigError("x"), lacks).message == "x"
    assert counted(failure, site) is failure


def test_an_address_of_ipv6_can_be_listened_at(router: zmq.Socket[bytes]) -> None:
    assert bind(router, "front", "::1", (0,)).startswith("tcp://[::1]:")


def test_an_address_of_another_host_is_told_with_those_of_this_one(router: zmq.Socket[bytes]) -> None:
    with pytest.raises(ConfigError, match=r"no interface of this host has 203\.0\.113\.9; .* lo \(127\.0\.0\.1"):
        bind(router, "front", "203.0.113.9", (0,))


def test_what_has_no_port_of_its_own_has_one_of_the_range() -> None:
    network = Network(port_range="40000-40002", front_port=7000)
    site = read_site("local")
    site = type(site)(name="x", state_dir=site.state_dir, shared_dir=site.shared_dir, network=network)
    ports = {plan.name: plan.ports for plan in daemon_plans(site, None)}
    assert ports[BROKER] == {"front": (7000,), "back": (40000, 40001, 40002)}
    assert ports[ADMISSION] == {"admission": (40000, 40001, 40002)}
