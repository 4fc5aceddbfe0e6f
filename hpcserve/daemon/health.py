"""The traces of a site's daemon: its record, its lease, its sockets, and what it stands on. Changes nothing.

What a site file says of this host is looked at in :mod:`hpcserve.cluster.site_host`; here, what the daemon made of it.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time

from hpcserve.cluster import interfaces, site_host
from hpcserve.cluster.finding import Finding
from hpcserve.cluster.processes import is_stopped
from hpcserve.cluster.reach import reach, split
from hpcserve.config import Site, runtime_dir
from hpcserve.core.lease import Sighting
from hpcserve.core.spans import span
from hpcserve.daemon import processes
from hpcserve.daemon.lease import sighted
from hpcserve.daemon.record import record_path
from hpcserve.errors import ConfigError, HpcserveError, ServiceUnavailable
from hpcserve.wire.record import ServiceRecord, decode_record

CLOCK_S = 5.0
"""Clocks that differ by less do no harm."""
HERE_S = 2.0
UP_AGAIN = "hpcserve up puts another in its place, which takes its pilots over"


def record(site: Site, job: str = "") -> tuple[ServiceRecord | None, Finding]:
    """The service record, if it can be read, and what is to be said of it.

    Args:
        site: The site.
        job: What the job does in which the daemon runs, or will; empty: there is none.
    """
    path = record_path(site.shared_dir)
    try:
        found = decode_record(path.read_bytes(), str(path))
    except FileNotFoundError:
        if job:
            return None, Finding("record", "warning", f"no daemon can be called yet; wait for its job, {job}")
        told = f"no daemon runs, or it is not ready yet ({path} does not exist); start one: hpcserve up"
        return None, Finding("record", "failed", told)
    except ServiceUnavailable as error:  # half of one: the daemon mends it
        return None, Finding("record", "failed", str(error))
    except (OSError, ConfigError) as error:
        return None, Finding("record", "failed", f"{error}; a daemon writes it anew: hpcserve down, then hpcserve up")
    told = f"{found.software} on {found.host} as pid {found.pid}, epoch {found.epoch}"
    return found, Finding("record", "ok", told)


def lease(site: Site, published: ServiceRecord | None) -> Finding:
    """Whether somebody holds the lease, and the same as stands in the record."""
    try:
        sighting = sighted(site.shared_dir)
    except HpcserveError as error:
        return Finding("lease", "failed", str(error))
    wrong = _wrong_lease(sighting, published)
    if wrong:
        return Finding("lease", "failed", wrong)
    if sighting is None or sighting.lease is None or sighting.lease.released:
        return Finding("lease", "skipped", "nobody holds it")
    held = sighting.lease
    age = span(max(0.0, sighting.age_s))
    told = f"epoch {sighting.epoch}, held by pid {held.pid} on {held.host}, renewed {age} ago"
    if sighting.age_s <= held.lease_s:
        return Finding("lease", "ok", told)
    told = f"{told}, though it lasts {held.lease_s:g} s"
    if not sighting.lives:
        why = "it was stopped, its host is gone or stands still, the file system was away, or two hosts' clocks differ"
        advice = f"run hpcserve doctor there; if it does not answer, {UP_AGAIN}"
        return Finding("lease", "warning", f"{told}: {why}; {advice}")
    if is_stopped(held.pid):
        why = f"the process was stopped by somebody (SIGSTOP); {processes.how_to_go_on(held.pid)}"
    else:
        why = "the process waits, as a rule for the file system; wait for that"
    return Finding("lease", "failed", f"{told}: {why}, {processes.how_to_replace(held.pid)}")


def running(site: Site, published: ServiceRecord | None) -> Finding:
    """Whether the daemon's processes run, and none stands still."""
    if published is not None and published.host != socket.gethostname():
        return Finding("processes", "skipped", f"the daemon is on {published.host}: run hpcserve doctor there")
    place = runtime_dir(site.state_dir)
    noted, found = processes.noted(place), processes.running(place)
    if processes.SUPERVISOR not in found:
        return Finding("processes", "skipped", "no supervisor runs here")
    wrong = processes.stopped_in_words(place)
    if wrong:
        return Finding("processes", "failed", wrong)
    told = ", ".join(f"{name} {pid}" for name, pid in found.items())
    gone = " and ".join(name for name in noted if name not in found)
    if gone:
        why = f"{gone} has ended, or its pid could not be noted; the supervisor starts what has ended again"
        return Finding("processes", "warning", f"{told}; {why}: {site.shared_dir}/logs/supervisor.log")
    return Finding("processes", "ok", told)


def _wrong_lease(sighting: Sighting | None, published: ServiceRecord | None) -> str:
    if sighting is None or (sighting.lease is not None and sighting.lease.released):
        return "" if published is None else f"the daemon of the record has given it up, or it was removed; {UP_AGAIN}"
    held = sighting.lease
    if held is None:
        return "its file cannot be read; a daemon that runs writes it anew within seconds"
    if sighting.lives is False:
        return f"its holder, pid {held.pid} on {held.host}, has ended without a word; {UP_AGAIN}"
    if published is not None and (published.host, published.pid) != (held.host, held.pid):
        now = f"pid {held.pid} on {held.host}"
        before = f"pid {published.pid} on {published.host}"
        return f"it is held by {now}, which is not ready yet: the record is still that of {before}"
    return ""


def _is_to_come(site: Site, published: ServiceRecord | None) -> bool:
    """Whether the daemon will be on a node of which nobody knows yet: this host tells nothing of that."""
    return published is None and site.daemon.placement == "job"


def interface(site: Site, published: ServiceRecord | None) -> Finding:
    """Whether the interface of the site file is there, and the one that the daemon listens at."""
    if published is not None and published.host != socket.gethostname():
        told = f"the daemon is on {published.host}: run hpcserve doctor there"
        return Finding("interface", "skipped", told)
    if _is_to_come(site, published):
        return site_host.of_a_node(site)
    try:
        address = interfaces.resolve(site.network.host)
    except ConfigError as error:
        return Finding("interface", "failed", error.message)
    listens = address if published is None else split(published.admission[0])[0]
    if listens != address:
        told = f"the daemon listens at {listens}, and network.host = {site.network.host!r} is {address} now"
        return Finding("interface", "failed", f"{told}; run: hpcserve down, then hpcserve up")
    return site_host.interface(site, address)


def ports(site: Site, published: ServiceRecord | None) -> Finding:
    """Whether the daemon's sockets answer here; without a daemon, whether there is room for them."""
    if _is_to_come(site, published):
        return Finding("ports", "skipped", "the daemon runs in a job, and takes those that are free on its node")
    if published is None:
        doors = site_host.Doors(site)
        doors.close()
        if doors.error:
            return Finding("ports", "failed", doors.error)
        return room(doors, None)
    addresses = _addresses(published)
    found = {name: reach(address, HERE_S) for name, address in addresses.items()}
    wrong = [f"{name} at {addresses[name]}: {each.told}" for name, each in found.items() if each is not None]
    if wrong:
        told = f"this host does not reach the daemon's {'; '.join(wrong)}"
        return Finding("ports", "failed", f"{told}; if the daemon has ended, {UP_AGAIN}")
    return Finding("ports", "ok", ", ".join(f"{name} {address}" for name, address in addresses.items()))


def room(doors: site_host.Doors, published: ServiceRecord | None) -> Finding:
    """Whether a daemon can have a port for each of its sockets; the one that runs has them already."""
    own = () if published is None else _addresses(published).values()
    lacking = doors.lacking(own)
    if lacking:
        return Finding("ports", "failed", lacking)
    if published is not None:
        return Finding("ports", "ok", f"the daemon on {published.host} has {', '.join(own)}")
    return Finding("ports", "ok", f"a daemon can have {', '.join(doors.addresses)}, for example")


def _addresses(published: ServiceRecord) -> dict[str, str]:
    sockets = {"admission": published.admission, "front": published.front, "back": published.back}
    return {name: each.removeprefix("tcp://") for name, (each, *_) in sockets.items()}


def shared_dir(site: Site) -> Finding:
    """Whether it can be written, has room, and may be seen by other hosts."""
    from hpcserve.registry.engine import LOCAL_FILE_SYSTEMS, MOUNTS, file_system

    found = site_host.shared_dir(site)
    if found.outcome != "ok" or site.scheduler.kind == "local" or not MOUNTS.exists():
        return found
    kind = file_system(site.shared_dir.resolve(), MOUNTS.read_text(errors="surrogateescape"))
    if kind not in LOCAL_FILE_SYSTEMS:
        return Finding(found.subject, "ok", f"{found.told}, on {kind or 'a file system of unknown type'}")
    told = f"{found.told}, on {kind}, which is most often a disk of one host alone"
    return Finding(found.subject, "warning", f"{told}; set shared_dir to a place that compute nodes see too")


def clock(site: Site) -> Finding:
    """Whether this host and the server of the shared directory agree on the time, by which leases are told."""
    try:
        with tempfile.NamedTemporaryFile(dir=site.shared_dir) as file:
            file.write(b"\n")
            file.flush()
            behind_s = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError as error:
        return Finding("clock", "skipped", f"cannot write to {site.shared_dir}: {error.strerror}")
    if abs(behind_s) <= CLOCK_S:
        return Finding("clock", "ok", "as that of shared_dir's file server")
    told = f"{abs(behind_s):.0f} s {'behind' if behind_s > 0 else 'ahead of'} that of shared_dir's file server"
    return Finding("clock", "warning", f"{told}; ask the facility to set it")
