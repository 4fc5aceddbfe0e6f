"""Why the pilots of a daemon that runs do not reach it, from what a compute node and this host see of it. Pure.

How both look is told in :mod:`hpcserve.cluster.probe` and :mod:`hpcserve.cluster.lookout`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from hpcserve.cluster.finding import Finding
from hpcserve.cluster.probe import Report
from hpcserve.cluster.reach import Obstacle, split

WAY_BACK = "way back"


@dataclass(frozen=True, slots=True)
class Socket:
    """One of the daemon's sockets that agents connect to.

    Attributes:
        name: What the service record calls it.
        address: ``HOST:PORT``.
        here: What keeps this host from it; None if nothing does.
    """

    name: str
    address: str
    here: Obstacle | None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another address of this host where something listens for this once."""

    interface: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What this host knows.

    Attributes:
        host: The daemon's, as the service record says.
        is_here: Whether that is this host.
        epoch: That of the record.
        sockets: Those that agents connect to.
        elsewhere: Where else a node may reach this host; none where the daemon is on another one.
    """

    host: str
    is_here: bool
    epoch: int
    sockets: tuple[Socket, ...]
    elsewhere: tuple[Elsewhere, ...]

    @property
    def addresses(self) -> list[str]:
        """All that a node is to try."""
        return [each.address for each in self.sockets] + [each.address for each in self.elsewhere]


def diagnose(report: Report, view: View) -> Iterator[Finding]:
    """What a node's report says of its way to the daemon."""
    yield from _record(report, view)
    missed = [each for each in view.sockets if each.address in report.obstacles]
    if not missed:
        told = f"{report.host} reaches the daemon on {view.host} at {_listed(view.sockets)}"
        yield Finding(WAY_BACK, "ok", told)
        return
    # One cause for all, most likely: the first one is what an agent tries first.
    obstacle = report.obstacles[missed[0].address]
    told = f"{report.host} does not reach the daemon on {view.host} at {_listed(missed)}: {obstacle.told}"
    yield Finding(WAY_BACK, "failed", f"{told}; {_advice(report, view, missed[0], obstacle)}")


def _record(report: Report, view: View) -> Iterator[Finding]:
    if report.record_error:
        told = f"{report.host} cannot read it: {report.record_error}"
        yield Finding("record", "failed", f"{told}; set shared_dir to a file system that compute nodes see")
    elif report.epoch is not None and report.epoch != view.epoch:
        told = f"{report.host} sees the one of epoch {report.epoch}, and this host the one of epoch {view.epoch}"
        yield Finding("record", "failed", f"{told}: a cache is behind, or shared_dir is not the same file system there")


def _advice(report: Report, view: View, missed: Socket, obstacle: Obstacle) -> str:
    """What is wrong, as far as it can be told, and what to do."""
    host, _ = split(missed.address)
    reached = [each for each in view.elsewhere if each.address not in report.obstacles]
    ports = [each.address for each in reached if split(each.address)[0] == host]
    others = [each for each in reached if split(each.address)[0] != host]
    if _is_loopback(host) and report.host != view.host:
        return f"wrong interface: {host} is each host itself; {_another(others)}"
    if obstacle.kind == "unresolvable":
        return f"set network.host to the name of an interface, whose address is known everywhere; {_another(others)}"
    if missed.here is not None and view.is_here:
        return (
            f"nor does this host ({missed.here.told}): nothing listens there, so the service record is out of date; "
            "run: hpcserve up"
        )
    if ports:
        return (
            f"wrong port: a firewall is in the way of this one alone, as {ports[0]} is reached; "
            "set network.port_range to the ports that it lets through, then hpcserve down and hpcserve up"
        )
    if others:
        return f"wrong interface: {_another(others)}"
    return f"{_firewall(missed, obstacle)}{_no_more(view)}"


def _firewall(missed: Socket, obstacle: Obstacle) -> str:
    ask = (
        "ask the facility which interface and ports of its login nodes compute nodes may connect to, "
        "and set network.host and network.port_range"
    )
    if missed.here is not None:  # the daemon is on another host, and nothing more is known
        return f"nor does this host ({missed.here.told}); {ask}"
    match obstacle.kind:
        case "dropped":
            return f"a firewall drops it, as this host reaches the daemon there: {ask}"
        case "refused" | "rejected":
            return f"a firewall rejects it, as this host reaches the daemon there: {ask}"
        case _:
            return f"something stands in between, as this host reaches the daemon there: {ask}"


def _no_more(view: View) -> str:
    if view.is_here:
        return ""
    return f"; on {view.host} itself, hpcserve doctor --pilot tries other interfaces as well"


def _another(others: list[Elsewhere]) -> str:
    if not others:
        return "set network.host to the interface that compute nodes reach, then hpcserve down and hpcserve up"
    best = others[0]
    return (
        f'it reaches this host at {split(best.address)[0]}, so set network.host = "{best.interface}", '
        "then hpcserve down and hpcserve up"
    )


def _listed(sockets: tuple[Socket, ...] | list[Socket]) -> str:
    return " and ".join(f"{each.address} ({each.name})" for each in sockets)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
