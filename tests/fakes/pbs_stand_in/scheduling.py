"""Which job runs where: first come, first served, as a cycle of PBS's scheduler; and how a job leaves the queue."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.fakes.pbs_stand_in import words
from tests.fakes.pbs_stand_in.store import Job, State

HELD_BY = ("R", "E")
"""The states in which a job has its nodes."""

SENT = 41
"""The substate of a job that was sent to its nodes, of which they have not told that it runs."""

Start = Callable[[str], None]
"""Begins a job's keeper."""


def cycle(state: State, start: Start) -> None:
    """Starts what fits, and says of all others why they wait."""
    _release(state)
    for job in sorted(state["jobs"].values(), key=lambda each: (each["sequence"], each.get("index", 0))):
        if job["state"] != "Q" or "indices" in job:
            continue
        placed = _placed(state, job)
        if placed is None:
            job["comment"] = _why_not(state, job)
        elif state["started"]:
            _begin(state, job, placed)
            job["keeper"] = 0  # it says so itself
            start(job["id"])


def _release(state: State) -> None:
    """Jobs that came after others (``-W depend=afterany``) may begin when all of those have ended."""
    living = {name for name, each in state["jobs"].items() if each["state"] != "F"}
    for job in state["jobs"].values():
        if "after" in job and living.isdisjoint(job["after"]):
            del job["after"]
            job.update(state="Q", substate=10, hold="n", etime=int(time.time()))


def finish(state: State, job: Job, *, substate: int, why: str, exit_code: int | None) -> None:
    """The job has ended: state F. Where no history is kept it is gone."""
    job.update(state="F", substate=substate, mtime=int(time.time()), history_timestamp=int(time.time()))
    job["comment"] = f"{job.get('comment', 'Not Running')} and {why}"
    job.pop("keeper", None)
    if exit_code is not None:
        job.update(exit_status=exit_code, stageout_status=1)
    if not state["history"]:
        del state["jobs"][job["id"]]


def requeue(job: Job) -> None:
    """Back into the queue; ``run_count`` grows when it runs again."""
    for name in ("keeper", "exec_host", "exec_vnode", "session", "stime", "used", "order", "begun"):
        job.pop(name, None)
    job.update(state="Q", substate=10, mtime=int(time.time()))


def _begin(state: State, job: Job, placed: list[str]) -> None:
    now = int(time.time())
    hosts = {each["name"]: each["host"] for each in state["nodes"]}
    taken: dict[str, int] = {}
    for each in state["jobs"].values():
        for part in each.get("exec_host", "").split("+") if each["state"] in HELD_BY else ():
            host = part.partition("/")[0]
            taken[host] = taken.get(host, 0) + 1
    tasks, vnodes = [], []
    for vnode, chunk in zip(placed, job["chunks"], strict=True):
        host = hosts[vnode]
        tasks.append(f"{host}/{taken.get(host, 0)}" + (f"*{chunk['ncpus']}" if chunk["ncpus"] > 1 else ""))
        taken[host] = taken.get(host, 0) + 1
        asked = ":".join(f"{name}={n}" for name, n in chunk.items() if name in {"ncpus", "ngpus"})
        vnodes.append(f"({vnode}:{asked})")
    job.update(state="R", substate=SENT, stime=now, mtime=now, run_count=job.get("run_count", 0) + 1)
    job.update(exec_host="+".join(tasks), exec_vnode="+".join(vnodes), placed=placed)
    job["comment"] = f"Job run at {words.day(now)} on {job['exec_vnode']}"


def _placed(state: State, job: Job) -> list[str] | None:
    """A virtual node for each chunk; with ``place=scatter`` another one for each."""
    free = _free(state)
    scatter = job["resources"]["place"].startswith("scatter")
    placed: list[str] = []
    for chunk in job["chunks"]:
        for name, has in free.items():
            if scatter and name in placed:
                continue
            if all(has[each] >= chunk.get(each, 0) for each in has):
                placed.append(name)
                free[name] = {each: has[each] - chunk.get(each, 0) for each in has}
                break
        else:
            return None
    return placed


def _free(state: State) -> dict[str, dict[str, int]]:
    has = {
        each["name"]: {"ncpus": each["ncpus"], "ngpus": each["ngpus"]}
        for each in state["nodes"]
        if each["state"] == "free"
    }
    for job in state["jobs"].values():
        if job["state"] in HELD_BY and "placed" in job:
            for vnode, chunk in zip(job["placed"], job["chunks"], strict=True):
                for name in has.get(vnode, ()):
                    has[vnode][name] -= chunk.get(name, 0)
    return has


def _why_not(state: State, job: Job) -> str:
    """Only the first is recorded: what fits no empty node either is told of in PBS's own words for it."""
    asked = sum(chunk["ncpus"] for chunk in job["chunks"])
    total = sum(each["ncpus"] for each in state["nodes"])
    free = sum(each["ncpus"] for each in _free(state).values())
    amounts = f"Insufficient amount of resource: ncpus (R: {asked} A: {free} T: {total})"
    return f"{'Can Never Run' if asked > total else 'Not Running'}: {amounts}"
