"""Where a daemon listens on a login node: at an interface by its name, on ports of a range, beside another one."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hpcserve.wire.record import decode_record
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN, address_of
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, Facility

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

INTERFACES = """
ip link show bare0 2>/dev/null && exit
ip link add bare0 type bridge
ip link add six0 type bridge
ip -6 addr add fd77::5/64 dev six0 nodad
ip link set six0 up
"""


def ports_of(facility: Facility) -> list[int]:
    record = decode_record((facility.shared / "service.json").read_bytes(), "")
    addresses = (*record.admission, *record.front, *record.back)
    assert {address.removeprefix("tcp://").rpartition(":")[0] for address in addresses} == {address_of(LOGIN)}
    return sorted(int(address.rpartition(":")[2]) for address in addresses)


def test_two_daemons_share_a_login_node_and_a_range_of_ports(new_facility: NewFacility) -> None:
    network = {"host": "switch", "port_range": "40000-40005"}
    one = new_facility(network=network).up()
    other = new_facility(network=network).up()
    assert ports_of(one) == [40000, 40001, 40002]
    assert ports_of(other) == [40003, 40004, 40005]
    with one.client() as client:
        endpoint = one.deploy(client, SERVABLES / "tally")
        assert client.infer(f"{endpoint}.again", np.int64(3), parameters={"log": f"{one.home}/log"})["n"] == 3
    assert "pids" in other.told()
    refused = new_facility(network=network).command("up", "--detach")
    assert refused.returncode == 7
    assert "none of the ports 40000-40005 of switch is free" in refused.stderr
    assert "port_range" in refused.stderr


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("hsn0", r"network.host: 'hsn0' is no interface, and no name or address; this host has the interfaces "),
        ("bare0", r"network.host: interface bare0 has no address; this host has the interfaces "),
    ],
)
def test_an_interface_that_will_not_do_is_told_with_those_that_are_there(
    box: Box, new_facility: NewFacility, host: str, told: str
) -> None:
    box.run(LOGIN, ["sh", "-ec", INTERFACES])
    refused = new_facility(network={"host": host}).command("up", "--detach")
    assert refused.returncode == 2
    assert re.search(told, refused.stderr)
    assert re.search(r"lo \(127.0.0.1.*switch \(10.77.0.1.*bare0 \(no address\), six0 \(fd77::5\)", refused.stderr)


def test_a_daemon_may_live_at_an_interface_that_has_only_ipv6(box: Box, new_facility: NewFacility) -> None:
    box.run(LOGIN, ["sh", "-ec", INTERFACES])
    facility = new_facility(network={"host": "six0", "unix_sockets": False}).up()
    assert "tcp://[fd77::5]:" in (facility.shared / "service.json").read_text()
    assert "pids" in facility.told()
