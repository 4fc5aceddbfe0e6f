"""What this host says of its interfaces, and which address of it a site file means."""

from __future__ import annotations

import pytest

from hpcserve.cluster import interfaces
from hpcserve.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "address"),
    [("lo", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("[::1]", "::1"), ("localhost", "127.0.0.1")],
)
def test_a_host_is_an_interface_an_address_or_a_name(host: str, address: str) -> None:
    assert interfaces.resolve(host) == address


@pytest.mark.parametrize("host", ["nope0", "no such name", "a" * 300, "", "eth0:999999"])
def test_what_is_nothing_of_the_kind_is_told_with_what_there_is(host: str) -> None:
    with pytest.raises(ConfigError, match=r"; this host has the interfaces lo \(127\.0\.0\.1"):
        interfaces.resolve(host)


@pytest.mark.parametrize(("address", "told"), [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7")])
def test_an_endpoint_can_be_told_apart_from_its_port(address: str, told: str) -> None:
    assert interfaces.endpoint(address, 7) == told
