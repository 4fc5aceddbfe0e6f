"""What the answers of PBS's commands say about a site: does it fit this cluster, and if not, what to do. Pure.

How the commands are run is told in :mod:`hpcserve.cluster.site_pbs`. PBS takes jobs that will never run, and they wait
for ever: so what a queue allows is compared here.

Source: qmgr(1B), pbs_server_attributes(7B) and pbs_queue_attributes(7B) of OpenPBS 23.06; the recorded answers of a
server of it, which has no limits at its queue and no queue that hands jobs on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hpcserve.cluster.finding import Asked, Finding, no_answer
from hpcserve.cluster.pbs_json import decoded
from hpcserve.config import Queue, Site
from hpcserve.errors import SchedulerError

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+)(?:\.\d+)?")
_UP = ("Active", "Scheduling", "Hot_Start")
_ONE_USERS = re.compile(r"\[u:PBS_GENERIC=(\d+)\]")
Attributes = Mapping[str, Any]


def server(asked: Asked) -> Iterator[Finding]:
    """Of ``qstat -B -f -F json``: whether it answers and begins jobs, and whether it tells of those that have ended."""
    told = _told(asked, "Server")
    if isinstance(told, str) or not told:
        why = told if isinstance(told, str) else "qstat -B tells of no server"
        yield Finding("PBS", "failed", f"{why}; ask the facility, or try again later")
        return
    name, found = next(iter(told.items()))
    shown = f"{name}, PBS {found.get('pbs_version', '?')}, {found.get('server_state', '?')}"
    if found.get("server_state") not in _UP:
        yield Finding("PBS", "warning", f"{shown}: it may begin no jobs at present; ask the facility")
    elif not _is_true(found.get("scheduling", "True")):
        yield Finding("PBS", "warning", f"{shown}: scheduling is off, so no job begins at present; ask the facility")
    else:
        yield Finding("PBS", "ok", shown)
    if _is_true(found.get("job_history_enable", "False")):
        yield Finding("history", "ok", "the server tells how jobs have ended")
    else:
        told_by = "it is known from what its agent said and from its absence"
        yield Finding("history", "ok", f"off: the server does not tell how a pilot has ended; {told_by}")


def queue(site: Site, default: str, asked: Asked) -> Iterator[Finding]:
    """Of ``qstat -Q -f -F json``: whether the site's queue takes its pilots.

    Args:
        site: The site.
        default: The server's default queue; empty: none.
        asked: The answer.
    """
    queues = _told(asked, "Queue")
    if isinstance(queues, str):
        yield Finding("queue", "failed", queues)
        return
    name = site.pilots.reservation or site.pilots.partition or default
    if not name:
        told = f"this server has no default one: set pilots.partition to one of {_list(queues)}"
        yield Finding("queue", "failed", told)
        return
    why = list(_against(site, name, queues))
    shown = name if site.pilots.partition or site.pilots.reservation else f"{name} (the default)"
    if why:
        yield Finding("queue", "failed", f"{shown}: {'; '.join(why)}")
    else:
        yield Finding("queue", "ok", "".join((shown, ", enabled and started", *_shown(queues[name]))))
    for limit, held, there in _beyond(site.queues.get(name), queues.get(name, {})):
        changed = f"queues.{name}.{limit}: PBS has {there:g}, the site file {held:g}"
        yield Finding(
            "queue", "warning", f"{changed}; correct the site file, or pilots may be refused or wait for ever"
        )


def default_queue(asked: Asked) -> str:
    """Of ``qstat -B -f -F json``: the queue of a job that names none; empty if there is none."""
    told = _told(asked, "Server")
    found = {} if isinstance(told, str) else next(iter(told.values()), {})
    return str(found.get("default_queue", ""))


def time_s(text: object) -> float | None:
    """``[[HH:]MM:]SS`` in seconds; None for anything else."""
    found = _TIME.fullmatch(str(text))
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float((hours * 60 + minutes) * 60 + seconds)


def _told(asked: Asked, of: str) -> dict[str, Attributes] | str:
    """The objects in an answer by their names, or why there are none."""
    if isinstance(asked, SchedulerError) or asked.exit_code:
        return no_answer(asked)
    try:
        found = decoded("qstat", asked.stdout).get(of, {})
    except SchedulerError as error:
        return str(error)
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        return f"{' '.join(asked.argv)}: cannot read its answer; run it by hand and look"
    return found


def _against(site: Site, name: str, queues: Mapping[str, Attributes]) -> Iterator[str]:
    """Why a queue does not take the site's pilots."""
    found = queues.get(name)
    if found is None:
        yield f"there is no such queue; correct pilots.partition: there are {_list(queues)}"
        return
    if not _is_true(found.get("enabled", "False")):
        yield "it takes no jobs (enabled is False); wait, or set another pilots.partition"
    if not _is_true(found.get("started", "False")):
        yield "it begins no jobs (started is False); wait, or set another pilots.partition"
    if _is_true(found.get("from_route_only", "False")):
        yield "it takes jobs from other queues only; set pilots.partition to the one that hands on to it"
    yield from _of_limits(site, found)
    further = [queues[each] for each in _destinations(found) if each in queues]
    reasons = [list(_of_limits(site, each)) for each in further]
    if reasons and all(reasons):
        yield f"none of the queues that it hands on to takes such a job: {'; '.join(reasons[0])}"


def _of_limits(site: Site, found: Attributes) -> Iterator[str]:
    pilots = site.pilots
    for resource, field, asked in (("walltime", "walltime_s", pilots.walltime_s), ("nodect", "nodes", pilots.nodes)):
        least, most = _limit(found, "resources_min", resource), _limit(found, "resources_max", resource)
        if most is not None and asked > most:
            yield f"pilots.{field}: expected ≤ {most:g}, got {asked:g}"
        if least is not None and asked < least:
            yield f"pilots.{field}: expected ≥ {least:g}, got {asked:g}"


def _beyond(held: Queue | None, found: Attributes) -> Iterator[tuple[str, float, float]]:
    """The limits in the site file that allow more than the queue does: which, and both."""
    if held is None:
        return
    for limit, value, kind, resource in (
        ("max_walltime_s", held.max_walltime_s, "resources_max", "walltime"),
        ("min_walltime_s", held.min_walltime_s, "resources_min", "walltime"),
        ("max_nodes", held.max_nodes, "resources_max", "nodect"),
        ("min_nodes", held.min_nodes, "resources_min", "nodect"),
    ):
        there = _limit(found, kind, resource)
        if there is not None and (0 < value < there if kind == "resources_min" else value > there):
            yield limit, value, there
    for limit, value in (("max_running", held.max_running), ("max_queued", held.max_queued)):
        there = _of_a_user(found, "max_run" if limit == "max_running" else limit)
        if there is not None and value > there:
            yield limit, value, there


def _limit(found: Attributes, kind: str, resource: str) -> float | None:
    limits = found.get(kind, {})
    value = limits.get(resource) if isinstance(limits, dict) else None
    return None if value is None else time_s(value)


def _of_a_user(found: Attributes, limit: str) -> float | None:
    told = _ONE_USERS.search(str(found.get(limit, "")))
    return None if told is None else float(told[1])


def _destinations(found: Attributes) -> list[str]:
    return [each.strip().partition("@")[0] for each in str(found.get("route_destinations", "")).split(",") if each]


def _shown(found: Attributes) -> Iterator[str]:
    longest_s = _limit(found, "resources_max", "walltime")
    if longest_s is not None:
        yield f", at most {longest_s:g} s"
    if _destinations(found):
        yield f", hands on to {', '.join(_destinations(found))}"


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
