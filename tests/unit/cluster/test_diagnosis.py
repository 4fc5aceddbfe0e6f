"""What is said of a node that does not reach its daemon: each cause is told apart, with what to do about it."""

from __future__ import annotations

import pytest

from hpcserve.cluster.diagnosis import Elsewhere, Socket, View, diagnose
from hpcserve.cluster.finding import Finding
from hpcserve.cluster.probe import Report
from hpcserve.cluster.reach import Kind, Obstacle

ADMISSION, BACK = "10.0.0.1:40000", "10.0.0.1:40002"
SAME, OTHER = Elsewhere("ib0", "10.0.0.1:50000"), Elsewhere("hsn0", "10.9.0.1:50001")
REFUSED = Obstacle("refused", "refused: nobody listens there")


def seen(*missed: str, kind: Kind = "dropped", epoch: int = 7, host: str = "n1", error: str = "") -> Report:
    """A node's report, from which these addresses are not reached."""
    obstacles = {address: Obstacle(kind, f"it is {kind}") for address in missed}
    return Report(host=host, version="1", python="python", obstacles=obstacles, epoch=epoch, record_error=error)


def view(*elsewhere: Elsewhere, here: Obstacle | None = None, is_here: bool = True, address: str = "10.0.0.1") -> View:
    sockets = (Socket("admission", f"{address}:40000", here), Socket("back", f"{address}:40002", here))
    return View(host="login", is_here=is_here, epoch=7, sockets=sockets, elsewhere=elsewhere)


def told(report: Report, looked: View) -> Finding:
    (finding,) = diagnose(report, looked)
    assert finding.subject == "way back"
    return finding


def test_a_node_that_reaches_both_sockets_is_well_whatever_else_it_does_not_reach() -> None:
    finding = told(seen(OTHER.address), view(OTHER))
    assert finding.outcome == "ok"
    assert finding.told == f"n1 reaches the daemon on login at {ADMISSION} (admission) and {BACK} (back)"


def test_all_that_a_node_is_to_try_is_listed() -> None:
    assert view(OTHER).addresses == [ADMISSION, BACK, OTHER.address]


@pytest.mark.parametrize(
    ("report", "looked", "advice"),
    [
        (seen(ADMISSION, BACK), view(), "a firewall drops it, as this host reaches the daemon there: ask the facility"),
        (seen(ADMISSION, SAME.address, OTHER.address), view(SAME, OTHER), "a firewall drops it"),
        (seen(BACK, kind="refused"), view(), "a firewall rejects it, as this host reaches the daemon there"),
        (seen(BACK, kind="rejected"), view(), "a firewall rejects it"),
        (seen(BACK, kind="silent"), view(), "something stands in between"),
        (seen(BACK, kind="foreign"), view(), "something stands in between"),
        (
            seen(ADMISSION, BACK),
            view(SAME),
            "wrong port: a firewall is in the way of this one alone, as 10.0.0.1:5",
        ),
        (
            seen(ADMISSION, BACK),
            view(OTHER),
            "wrong interface: it reaches this host at 10.9.0.1, so set network.h",
        ),
        (seen(ADMISSION, kind="unresolvable"), view(OTHER), 'set network.host = "hsn0", then hpcserve down and'),
        (seen(ADMISSION, kind="refused"), view(OTHER, here=REFUSED), "nothing listens there, so the service record is"),
        (
            seen(ADMISSION),
            view(is_here=False),
            "on login itself, hpcserve doctor --pilot tries other interfaces",
        ),
        (seen(ADMISSION), view(here=REFUSED, is_here=False), "nor does this host (refused: nobody listens there); ask"),
    ],
)
def test_each_cause_is_told_with_what_to_do(report: Report, looked: View, advice: str) -> None:
    finding = told(report, looked)
    assert finding.outcome == "failed"
    assert finding.told.startswith("n1 does not reach the daemon on login at 10.0.0.1:4000")
    assert advice in finding.told


def test_a_loopback_address_is_each_host_itself() -> None:
    looked = view(OTHER, address="127.0.0.1")
    finding = told(seen("127.0.0.1:40000", kind="refused"), looked)
    assert "wrong interface: 127.0.0.1 is each host itself; it reaches this host at 10.9.0.1" in finding.told
    local = told(seen("127.0.0.1:40000", kind="refused", host="login"), view(here=REFUSED, address="127.0.0.1"))
    assert "the service record is out of date" in local.told


def test_a_record_that_the_node_sees_otherwise_is_told_first() -> None:
    old, way = diagnose(seen(epoch=6), view())
    assert (old.subject, old.outcome, way.outcome) == ("record", "failed", "ok")
    assert old.told.startswith("n1 sees the one of epoch 6, and this host the one of epoch 7")
    unread, _ = diagnose(seen(error="[Errno 13] Permission denied"), view())
    assert unread.told.startswith("n1 cannot read it: [Errno 13] Permission denied; set shared_dir")
