"""A job, a queue, a node and the server as ``qstat`` and ``pbsnodes`` tell of them: keys, their order, their values.

All as in the recordings. ``Account_Name``, ``umask``, ``Shell_Path_List``, ``estimated`` and some states were not
recorded, and are as in OpenPBS's source.
"""

from __future__ import annotations

import time
from typing import Any

from tests.fakes.pbs_stand_in import words
from tests.fakes.pbs_stand_in.store import Job, State

VERSION = "23.06.06"
_STATES = ("Transit", "Queued", "Held", "Waiting", "Running", "Exiting", "Begun")
_ARRAY_STATES = {"Queued": "QHW", "Running": "RS", "Exiting": "E", "Expired": "XF"}

Told = dict[str, Any]


def heading(state: State) -> Told:
    """What every answer begins with."""
    return {"timestamp": int(time.time()), "pbs_version": VERSION, "pbs_server": state["host"]}


def job(state: State, found: Job) -> Told:
    """All attributes of one job, in PBS's order; a value may be None, and is then not told."""
    if "indices" in found:
        found = _array(state, found)
    is_part, is_array = "index" in found, "indices" in found
    told: Told = {
        "Job_Name": words.value(found["name"]),
        "Job_Owner": found["owner"],
        "resources_used": _used(found),
        "job_state": found["state"],
        "queue": found["queue"],
        "server": state["host"],
        "Account_Name": found.get("account"),
        "Checkpoint": None if is_part else "u",
        "ctime": words.date(found["ctime"]),
        "Error_Path": found["error"],
        "exec_host": found.get("exec_host"),
        "exec_vnode": found.get("exec_vnode"),
        "Hold_Types": None if is_part else found["hold"],
        "Join_Path": found["join"],
        "Keep_Files": found["keep"],
        "Mail_Points": "a",
        "mtime": words.date(found["mtime"]),
        "Output_Path": found["output"],
        "Priority": 0,
        "qtime": words.date(found["qtime"]),
        "Rerunable": str(found["rerunnable"]),
        "Resource_List": found["resources"],
        "stime": _date(found.get("stime")),
        "obittime": _date(found.get("obittime")),
        "session_id": found.get("session"),
        "Shell_Path_List": found.get("shell"),
        "jobdir": found.get("home"),
        "substate": found["substate"],
        "Variable_List": {name: words.value(text) if text else "" for name, text in found["variables"].items()},
        "umask": int(found["umask"]) if found.get("umask") else None,
        "comment": found.get("comment"),
        "etime": _date(found.get("etime")),
        "run_count": found.get("run_count"),
        "Stageout_status": found.get("stageout_status"),
        "Exit_status": found.get("exit_status"),
        "estimated": _estimated(found),
        "history_timestamp": found.get("history_timestamp"),
        "array": "True" if is_array else None,
        "array_state_count": _array_counts(state, found) if is_array else None,
        "array_indices_submitted": found.get("indices"),
        "array_indices_remaining": "-" if is_array else None,
        "array_id": found.get("array_id"),
        "array_index": found.get("index"),
        "project": found["project"],
        "Submit_Host": state["host"],
    }
    return {name: each for name, each in told.items() if each is not None}


def queues(state: State) -> Told:
    """``qstat -Q -f``."""
    return {name: _queue(state, name, limits) for name, limits in state["queues"].items()}


def server(state: State) -> Told:
    """``qstat -B -f``, of which the most never changes."""
    jobs = list(state["jobs"].values())
    told = {
        "server_state": "Active",
        "server_host": state["host"],
        "scheduling": str(state["started"]),
        "total_jobs": len(jobs),
        "state_count": _counts(jobs),
        "acl_roots": "root@*",
        "default_queue": next(iter(state["queues"])),
        "log_events": 511,
        "mailer": "/usr/sbin/sendmail",
        "mail_from": "adm",
        "query_other_jobs": "True",
        "resources_default": {"ncpus": 1},
        "default_chunk": {"ncpus": 1},
        "resources_assigned": _assigned(jobs),
        "scheduler_iteration": 15,
        "flatuid": "True",
        "resv_enable": "True",
        "node_fail_requeue": int(state["node_fail_requeue_s"]),
        "max_array_size": 10000,
        "resend_term_delay": 5,
        "pbs_license_min": 0,
        "pbs_license_max": 2147483647,
        "pbs_license_linger_time": 31536000,
        "license_count": "Avail_Global:1000000 Avail_Local:1000000 Used:0 High_Use:0",
        "pbs_version": VERSION,
        "eligible_time_enable": "False",
        "job_history_enable": str(state["history"]),
        "max_concurrent_provision": 5,
        "clear_topjob_estimates_enable": "False",
        "max_job_sequence_id": 9999999,
    }
    return {state["host"]: told}


def nodes(state: State) -> Told:
    """``pbsnodes -av``: each host's own, which has no processors where it has virtual nodes, and those."""
    found: Told = {}
    for node in state["nodes"]:
        host = node["host"]
        if host != node["name"] and host not in found:
            found[host] = {**_node(host, "free"), "pcpus": 2, **_has(host, host, 0, 0, "0b"), **_MANNERS}
        jobs = [each for each in state["jobs"].values() if each["state"] in {"R", "E"} and "placed" in each]
        on_it = [
            (each["id"], chunk)
            for each in jobs
            for vnode, chunk in zip(each["placed"], each["chunks"], strict=True)
            if vnode == node["name"]
        ]
        used = sum(chunk["ncpus"] for _, chunk in on_it)
        busy = node["state"] == "free" and used >= node["ncpus"]
        told = _node(host, "job-busy" if busy else node["state"])
        if on_it:
            told["jobs"] = list(dict.fromkeys(name for name, _ in on_it))
        told |= _has(node["name"], host, node["ncpus"], node["ngpus"], "2gb", used)
        changed = int(node.get("changed", time.time()))
        found[node["name"]] = {**told, **_MANNERS, "last_state_change_time": changed, "last_used_time": changed}
    for each in found.values():
        each.setdefault("last_state_change_time", int(time.time()))
    return found


_MANNERS: Told = {"resv_enable": "True", "sharing": "default_shared", "license": "l"}


def _node(host: str, state: str) -> Told:
    return {"Mom": host, "ntype": "PBS", "state": state}


def _has(name: str, host: str, ncpus: int, ngpus: int, memory: str, used: int = 0) -> Told:
    gpus = {"ngpus": ngpus} if ngpus else {}
    available = {"arch": "linux", "host": host, "mem": memory, "ncpus": ncpus, **gpus, "vnode": name}
    return {"resources_available": available, "resources_assigned": {"ncpus": used} if used else {}}


def _queue(state: State, name: str, limits: Told) -> Told:
    jobs = [each for each in state["jobs"].values() if each["queue"] == name]
    told: Told = {"queue_type": "Execution", "total_jobs": len(jobs), "state_count": _counts(jobs)}
    for each in ("resources_max", "resources_min"):
        if each in limits:
            told[each] = limits[each]
    if "max_queued" in limits:
        told["max_queued"] = f"[u:PBS_GENERIC={limits['max_queued']}]"
    assigned = _assigned(jobs)
    return told | {
        **({"resources_assigned": assigned} if assigned else {}),
        "enabled": str(limits.get("enabled", True)),
        "started": "True",
    }


def _counts(jobs: list[Job]) -> str:
    letters = {name: name[0] for name in _STATES}
    return "".join(f"{name}:{sum(each['state'] == letter for each in jobs)} " for name, letter in letters.items())


def _assigned(jobs: list[Job]) -> dict[str, int]:
    held = [each["resources"] for each in jobs if each["state"] in {"R", "E"}]
    return {name: sum(each[name] for each in held) for name in ("ncpus", "nodect")} if held else {}


def _used(found: Job) -> Told | None:
    if "used_s" in found:
        walltime_s, memory = found["used_s"], "0kb"
    elif found["state"] in {"R", "S", "E"} and found["substate"] != 41 and "begun" in found:
        walltime_s, memory = time.time() - found["begun"], "7248kb"
    else:
        return None
    memory = "7248kb" if "session" in found else memory
    return {
        "cpupercent": 0,
        "cput": "00:00:00",
        "mem": memory,
        "ncpus": found["resources"]["ncpus"],
        "vmem": "10380kb" if "session" in found else "0kb",
        "walltime": words.span(walltime_s),
    }


def _estimated(found: Job) -> Told | None:
    if "starts_at" not in found or found["state"] != "Q":
        return None
    return {"exec_vnode": "(vnode:ncpus=1)", "start_time": words.date(found["starts_at"])}


def _date(at_s: float | None) -> str | None:
    return None if at_s is None else words.date(at_s)


def _parts(state: State, array: Job) -> list[Job]:
    return [each for each in state["jobs"].values() if each.get("array_id") == array["id"]]


def _array(state: State, array: Job) -> Job:
    """An array has the state of its subjobs: B from the first that starts to the last that ends."""
    parts = _parts(state, array)
    starts = [each["stime"] for each in parts if "stime" in each]
    if not starts:
        return array
    if all(each["state"] == "F" for each in parts):
        return {**array, "state": "F", "substate": 92, "stime": min(starts)}
    return {
        **array,
        "state": "B",
        "substate": 70,
        "stime": min(starts),
        "comment": f"Job Array Began at {words.day(min(starts))}",
    }


def _array_counts(state: State, array: Job) -> str:
    parts = [each["state"] for each in _parts(state, array)]
    return " ".join(f"{name}:{sum(each in letters for each in parts)}" for name, letters in _ARRAY_STATES.items())


def table(jobs: list[Job]) -> str:
    """What ``qstat`` prints for people; nothing where there is no job. Source: qstat(1B), "Default Format"."""
    rows = [
        "Job id            Name             User              Time Use S Queue",
        "----------------  ---------------- ----------------  -------- - -----",
    ]
    for each in jobs:
        user = each["owner"].partition("@")[0]
        used = "0" if each["state"] in "QHW" else words.span(0)
        rows.append(f"{each['id']:17.17} {each['name']:16.16} {user:16.16} {used:>9} {each['state']} {each['queue']}")
    return "\n".join(rows) + "\n" if jobs else ""
