"""What partitions and QOS allow: which fields of a site go beyond that, and what is left for its pilots.

A daemon that runs in a job is a job of the same user. Where pilots have its queue too, it takes one of what the queue
allows: of those that run, and of those that wait, as the job of the next daemon does before the end of this one's.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hpcserve.config.sections import Daemon, Pilots, Queue, Site

Beyond = tuple[str, str, str, str]
"""A field, the queue that does not allow it, which limit of that, and what is wrong."""
SHARED = ("max_running", "max_queued")


def own_queues(site: Site) -> list[Queue]:
    """The rules that hold for this site's pilots: those of their partition and of their QOS, less the daemon's job."""
    daemons = _of_the_daemon(site)
    return [_less_one(queue) if name in daemons else queue for name, queue in _of(site, site.pilots).items()]


def beyond(site: Site) -> Iterator[Beyond]:
    """The fields of ``[pilots]`` and of ``[daemon]`` that a queue does not allow."""
    for name, queue in _of(site, site.pilots).items():
        yield from _pilots_beyond(site.pilots, name, queue)
    for name, queue in _of_the_daemon(site).items():
        yield from _daemon_beyond(site, name, queue)


def _of(site: Site, asks: Pilots | Daemon) -> dict[str, Queue]:
    return {name: site.queues[name] for name in (asks.partition, asks.qos) if name in site.queues}


def _of_the_daemon(site: Site) -> dict[str, Queue]:
    return _of(site, site.daemon) if site.daemon.placement == "job" else {}


def _less_one(queue: Queue) -> Queue:
    left = {limit: max(1, getattr(queue, limit) - 1) for limit in SHARED if getattr(queue, limit)}
    return msgspec.structs.replace(queue, **left)


def _pilots_beyond(pilots: Pilots, name: str, queue: Queue) -> Iterator[Beyond]:
    most = {
        "walltime_s": "max_walltime_s",
        "nodes": "max_nodes",
        "gpus_per_node": "gpus_per_node",
    }
    for field, limited_by in most.items():
        value, limit = getattr(pilots, field), getattr(queue, limited_by)
        if limit and value > limit:
            yield f"pilots.{field}", name, limited_by, f"expected ≤ {limit:g}, got {value:g}"
    for field, limited_by in (("nodes", "min_nodes"), ("walltime_s", "min_walltime_s")):
        limit = getattr(queue, limited_by)
        for each in (field, limited_by):  # pilots may have a least one too, and 0 is none
            value = getattr(pilots, each)
            if value < limit and (value or each == field):
                yield f"pilots.{each}", name, limited_by, f"expected ≥ {limit:g}, got {value:g}"
    if queue.preempt and not pilots.requeue:
        yield "pilots.requeue", name, "preempt", "expected true, since its jobs are preempted, got false"


def _daemon_beyond(site: Site, name: str, queue: Queue) -> Iterator[Beyond]:
    daemon, limit_s = site.daemon, queue.max_walltime_s
    field = "daemon.partition" if name == daemon.partition else "daemon.qos"
    if limit_s and daemon.walltime_s > limit_s:
        yield "daemon.walltime_s", name, "max_walltime_s", f"expected ≤ {limit_s:g}, got {daemon.walltime_s:g}"
    if daemon.walltime_s < queue.min_walltime_s:
        told = f"expected ≥ {queue.min_walltime_s:g}, got {daemon.walltime_s:g}"
        yield "daemon.walltime_s", name, "min_walltime_s", told
    if queue.min_nodes > 1:
        told = (
            f"expected a queue for jobs of one node, and the fewest nodes here are {queue.min_nodes}; name another one"
        )
        yield field, name, "min_nodes", told
    if queue.preempt:
        told = "expected a queue whose jobs are not preempted, as nobody would begin the daemon again; name another one"
        yield field, name, "preempt", told
    for limited_by in SHARED:
        if getattr(queue, limited_by) == 1 and name in _of(site, site.pilots):
            told = f"the daemon's job is the one that {limited_by} = 1 allows, which leaves none for pilots"
            yield field, name, limited_by, f"{told}; name another queue for the daemon, or for pilots"
