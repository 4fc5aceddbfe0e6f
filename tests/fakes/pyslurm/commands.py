"""Answers of a real Slurm, got by its commands and given the shape of pyslurm's.

So the transport can be tried on a Slurm of any release. Only the fields of a job's description are handed in, not the
``#SBATCH`` lines of its script: as with pyslurm, an option that was not made a field is lost.
"""

from __future__ import annotations

import os
import re
import subprocess
from types import SimpleNamespace
from typing import Any

from .errors import RPCError

_TIMEOUT_S = 20.0
# Of slurm_strerror().
_ERRORS = {
    "Unable to contact slurm controller": 1800,
    "Invalid partition name specified": 2000,
    "Access/permission denied": 2002,
    "Requested node configuration is not available": 2014,
    "Invalid job id specified": 2017,
    "I/O error writing script/environment": 2019,
    "Invalid feature specification": 2029,
    "Invalid account or account/partition combination": 2045,
    "Job violates accounting/QOS policy": 2050,
    "Requested time limit is invalid": 2051,
    "Requested reservation is invalid": 2053,
    "Invalid qos specification": 2066,
    "Invalid generic resource (gres) specification": 2072,
}
_OPTIONS = {
    "account": "account",
    "comment": "comment",
    "constraints": "constraint",
    "cpus_per_task": "cpus-per-task",
    "gpus": "gpus",
    "gres_per_node": "gres",
    "log_files_open_mode": "open-mode",
    "memory_per_node": "mem",
    "name": "job-name",
    "nodes": "nodes",
    "ntasks": "ntasks",
    "ntasks_per_node": "ntasks-per-node",
    "partitions": "partition",
    "qos": "qos",
    "required_nodes": "nodelist",
    "reservations": "reservation",
    "standard_error": "error",
    "standard_output": "output",
    "time_limit": "time",
    "working_directory": "chdir",
}


class Commands:
    version = "25.11.2"

    def init(self, path: str | None) -> None:
        """The commands read the configuration themselves."""

    def ping(self, index: int) -> None:
        if index > 0:
            raise RPCError(-1, "Invalid Index specified.")
        # Exit code 0 or not while it is down.
        try:
            is_up = " UP" in run("scontrol", "ping")
        except RPCError:
            is_up = False
        if not is_up:
            raise RPCError(1800, "Unable to contact slurm controller (connect failure)")

    def jobs(self) -> list[SimpleNamespace]:
        return [live(line) for line in run("scontrol", "-o", "show", "job").splitlines() if line.startswith("JobId=")]

    def submit(self, fields: dict[str, Any]) -> int:
        script = "".join(line for line in fields["script"].splitlines(keepends=True) if not line.startswith("#SBATCH"))
        answer = run("sbatch", "--parsable", *arguments(fields), script=script, environment=fields["environment"])
        return int(answer.partition(";")[0])

    def cancel(self, job: int) -> None:
        run("scancel", str(job))

    def past(self, job: int) -> SimpleNamespace:
        columns = "JobIDRaw,JobName,State,Reason,NodeList,ExitCode,Start,End,User"
        try:
            answer = run("sacct", "-X", "-P", "-n", "-j", str(job), "-o", columns)
        except RPCError:
            raise RPCError(-1, "Failed to get Jobs from slurmdbd") from None
        if not answer.strip():
            raise RPCError(-1, f"Job {job} does not exist on Cluster facility")
        return finished(answer.splitlines()[-1].split("|"))

    def accounting(self) -> str | None:
        found = re.search(r"AccountingStorageType\s*= (\S+)", run("scontrol", "show", "config"))
        return found[1] if found else None


def run(*argv: str, script: str = "", environment: dict[str, str] | None = None) -> str:
    # Seconds since 1970, as pyslurm has them. A job inherits what it is given, and nothing of this process.
    own = {**os.environ, "SLURM_TIME_FORMAT": "%s"} if environment is None else environment
    done = subprocess.run(argv, input=script, capture_output=True, text=True, timeout=_TIMEOUT_S, env=own, check=False)
    if done.returncode:
        number = next((number for text, number in _ERRORS.items() if text in done.stderr), -1)
        raise RPCError(number, done.stderr.strip().rpartition(": ")[2])
    return done.stdout


def arguments(fields: dict[str, Any]) -> list[str]:
    given = [f"--{option}={fields[name]}" for name, option in _OPTIONS.items() if name in fields]
    if "signal" in fields:
        warning = fields["signal"]
        given.append(f"--signal={'B:' if warning.get('batch_only') else ''}{warning['signal']}@{warning['time']}")
    if "is_requeueable" in fields:
        given.append("--requeue" if fields["is_requeueable"] else "--no-requeue")
    if fields.get("kill_on_node_fail") is False:
        given.append("--no-kill")
    if "resource_sharing" in fields:
        given.append("--exclusive")
    return given


def live(line: str) -> SimpleNamespace:
    fields = dict(re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", line))
    code, _, ended_by = fields["ExitCode"].partition(":")
    return SimpleNamespace(
        id=int(fields["JobId"]),
        name=fields["JobName"],
        user_id=int(fields["UserId"].rpartition("(")[2].rstrip(") ")),
        state=fields["JobState"],
        state_reason=fields["Reason"],
        batch_host=fields.get("BatchHost"),
        allocated_nodes=known(fields.get("NodeList", "")),
        exit_code=int(code),
        exit_code_signal=int(ended_by),
        requeue_count=int(fields["Restarts"]),
        start_time=seconds(fields["StartTime"]),
        run_time=duration(fields["RunTime"]),
    )


def finished(columns: list[str]) -> SimpleNamespace:
    job, name, state, reason, nodes, exit_code, start, end, _ = columns
    code, _, ended_by = exit_code.partition(":")
    return SimpleNamespace(
        id=int(job),
        name=name,
        state=state.partition(" ")[0],  # "CANCELLED by 1000"
        state_reason=reason,
        nodelist=known(nodes),
        exit_code=int(code),
        exit_code_signal=int(ended_by),
        requeue_count=0,
        start_time=seconds(start),
        end_time=seconds(end),
    )


def known(value: str) -> str | None:
    return None if value.strip() in {"", "(null)", "None assigned"} else value.strip()


def seconds(value: str) -> int | None:
    return int(value) if value.isdigit() and int(value) else None


def duration(value: str) -> int:
    days, _, clock = value.rpartition("-")
    total = int(days or 0) * 24
    hours, minutes, rest = (int(each) for each in clock.split(":"))
    return ((total + hours) * 60 + minutes) * 60 + rest
