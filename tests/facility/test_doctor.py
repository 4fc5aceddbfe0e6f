"""Pilots run and do not reach their daemon: they say why in their logs, and ``hpcserve doctor --pilot`` what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from hpcserve.wire.record import decode_record
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN, address_of
from tests.facility.box.firewall import Firewall, firewall
from tests.facility.clusters import ON_BOTH
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, Facility, status, until

AT = address_of(LOGIN)

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

WITHIN_S = 60.0
LOOKS_S = 60.0
"""Seconds are promised, here on a machine that may be busy. What hangs does so for minutes."""
PORTS = "40000-40009"
OUTSIDE = "10.99.0.1"
OUTSIDE_INTERFACE = f"ip link add ext0 type bridge; ip addr add {OUTSIDE}/32 dev ext0; ip link set ext0 up"


@pytest.fixture
def wall(box: Box) -> Iterator[Firewall]:
    with firewall(box) as made:
        yield made


def doctor(facility: Facility, *options: str) -> tuple[int, dict[str, str]]:
    """The exit code of ``hpcserve doctor``, and its findings by their subjects. It gets no longer than it may take."""
    done = facility.command("doctor", *options, timeout_s=LOOKS_S)
    assert done.stderr == ""
    lines = [re.fullmatch(r"(\w+) +([^:]+): (.*)", line) for line in done.stdout.splitlines()]
    return done.returncode, {line[2]: f"{line[1]} {line[3]}" for line in lines if line is not None}


def silent_pilot(facility: Facility) -> str:
    """Waits for a pilot whose job runs, and whose agent is not heard of."""
    with facility.client() as client:
        facility.want(client, SERVABLES / "tally")

        def there() -> str:
            found = [each.pilot for each in status(client).pilots if each.state == "running" and each.pid is None]
            return found[0] if found else ""

        return until(there, "a pilot runs and is silent", WITHIN_S)


def waited_s(found: dict[str, str]) -> float:
    """How long the doctor waited for the report of its job, by its own account."""
    told = re.search(r", (\d+) s after it was submitted$", found["pilot"])
    assert told is not None, found["pilot"]
    return float(told[1])


def said_of(facility: Facility, pilot: str, told: str) -> None:
    """Waits until the agent says it in its log."""
    until(lambda: told in facility.cli("logs", pilot), f"{pilot} says: {told}", WITHIN_S)


@pytest.mark.facility
def test_a_firewall_is_told_by_the_agent_by_status_and_by_the_doctor(new_facility: NewFacility, wall: Firewall) -> None:
    wall.stop(PORTS, "drop")
    facility = new_facility(network={"host": "switch", "port_range": PORTS}).up()
    pilot = silent_pilot(facility)
    record = decode_record((facility.shared / "service.json").read_bytes(), "")
    missed = f"does not reach the daemon on login at {record.admission[0]}"
    said_of(facility, pilot, missed)
    said_of(facility, pilot, "nothing came back within 4 s: a firewall drops what is sent, or no way leads there")
    assert f"{pilot}: its agent has not reported yet; if that lasts, see: hpcserve doctor --pilot" in facility.told()

    code, found = doctor(facility)
    assert code == 0, "nothing of the login node is wrong"
    told = rf"warning job \d+ runs on node\d, and its agent is not connected; it says: .*{re.escape(missed)}"
    assert re.match(told, found[f"pilot {pilot}"])

    code, found = doctor(facility, "--pilot")
    assert code == 1
    assert re.match(
        rf"failed node\d does not reach the daemon on login at {AT}:4000\d \(admission\) and "
        rf"{AT}:4000\d \(back\): nothing came back within 5 s: .*; wrong port: a firewall is in the way of "
        rf"this one alone, as {AT}:\d+ is reached; set network.port_range",
        found["way back"],
    )
    assert "pilot" not in found, "it looks in the pilot's job, and waits for no other"

    # The ports of srun as well, which then cannot begin a step; not that of slurmctld.
    wall.stop("1024-6000, 7000-65535", "reject with icmpx admin-prohibited")
    code, found = doctor(facility, "--pilot")
    assert code == 1
    assert found["pilots"].startswith("warning srun ")
    assert found["pilot"].startswith("ok ran on node")
    assert waited_s(found) < LOOKS_S / 2
    assert "rejected (No route to host)" in found["way back"]
    assert "a firewall rejects it, as this host reaches the daemon there: ask the facility" in found["way back"]

    wall.clear()
    with facility.client() as client:
        facility.wait_ready(client, "tally")
    code, found = doctor(facility, "--pilot")
    assert code == 0
    assert re.match(r"ok node\d reaches the daemon on login at ", found["way back"])


@pytest.mark.facility
def test_a_wrong_interface_is_told_with_the_right_one(box: Box, new_facility: NewFacility) -> None:
    box.run(LOGIN, ["sh", "-ec", OUTSIDE_INTERFACE])
    facility = new_facility(network={"host": "ext0"}).up()
    pilot = silent_pilot(facility)
    said_of(facility, pilot, "rejected (Network is unreachable)")
    code, found = doctor(facility, "--pilot")
    assert code == 1
    assert re.match(
        rf"failed node\d does not reach the daemon on login at {OUTSIDE}:\d+ .*; wrong interface: it reaches this host "
        rf'at {AT}, so set network.host = "switch", then hpcserve down and hpcserve up',
        found["way back"],
    )


@ON_BOTH
def test_a_daemon_that_is_gone_is_told_from_a_firewall(new_facility: NewFacility) -> None:
    facility = new_facility().up()
    record = decode_record((facility.shared / "service.json").read_bytes(), "")
    facility.kill("all")
    code, found = doctor(facility, "--pilot")
    assert code == 1
    ended = f"failed its holder, pid {record.pid} on {record.host}, has ended without a word; hpcserve up puts"
    assert found["lease"].startswith(ended)
    assert re.match(r"failed this host does not reach the daemon's admission at .*: refused", found["ports"])
    assert "nor does this host (refused" in found["way back"]
    assert "the service record is out of date; run: hpcserve up" in found["way back"]
