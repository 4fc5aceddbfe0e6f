"""Each file of tests/data/slurm-* is answered by a command on PATH, and ends as what happened.

All files are looked for on the disk. One without an expectation here fails, so none can lie there unread.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.cluster.finding import Finding
from hpcserve.cluster.runner import Runner
from hpcserve.cluster.script import job_script
from hpcserve.cluster.seam import JobId
from hpcserve.cluster.site_slurm import COMMANDS, questions
from hpcserve.cluster.slurm import state_of
from hpcserve.cluster.slurm_commands import CommandsTransport
from hpcserve.cluster.slurm_jobs import SlurmJob
from hpcserve.config import Pilots, Scheduler, read_site
from hpcserve.errors import SchedulerError
from tests.unit.cluster.slurm_recorded import asked_id, named, recording, replay
from tests.unit.cluster.slurm_stage import pilot_job

FORMS = ("json", "text", "text_X", "default_states")
NO_SLURMCTLD = "SchedulerError: .*Unable to contact slurm controller.*"
NO_SLURMDBD = "SchedulerError: .*Problem talking to the database.*"

# What each recording of one job was made to show, as slurmctld tells it.
QUEUE = {
    "array_running": "queued( and running)*",
    "cancelled": "ended: cancelled",
    "cancelled_pending": "ended: cancelled",
    "completed": "ended: completed",
    "failed": "ended: failed",
    "failed_signal": "ended: failed",
    "node_fail": "ended: node failed",
    "node_fail_requeued": "queued",
    "pending_begintime": "queued",
    "pending_dependency": "queued",
    "pending_dependency_never": "queued",
    "pending_held": "queued",
    "pending_resources": "queued",
    "pending_time_over_limit": "queued",
    "preempted": "ended: preempted",
    "requeued_by_preemption": "queued",
    "running": "running",
    "running_v0.0.42": "running",
    "timeout": "ended: walltime",
}
# Of a job that has ended, squeue tells no more where it is not asked for all states.
ENDED = {name for name, told in QUEUE.items() if told.startswith("ended")}
REFUSED = "JobRefused: .*"

# The answers to hpcserve's own questions tell of all jobs of a user, here by their names, at three moments.
MANY = {
    "timeout": "running",
    "completed": "ended: completed",
    "failed": "ended: failed",
    "signalled": "ended: failed",
    "no_output": "ended: failed",
    "cancelled": "ended: cancelled",
    "cancelled_pending": "ended: cancelled",
    "held": "queued",
    "begin": "queued",
    "never": "queued",
    "too_many_nodes": "queued",
    "too_long": "queued",
    "two\nlines | and bars": "running",
    "two_nodes": "running",
    "suspended": "suspended",
    "ignores": "running",
}
LOST = MANY | {
    **dict.fromkeys(("two\nlines | and bars", "two_nodes", "suspended", "ignores"), "ended: cancelled"),
    "requeued": "queued",
    "preempted": "ended: preempted",
    "node_lost": "ended: node failed",
    "node_lost_requeued": "queued",
    "urgent": "running",
}
LATER = LOST | {
    "timeout": "ended: walltime",
    "requeued": "running",
    "node_lost_requeued": "running",
    "urgent": "ended: cancelled",
}

EXPECTED: dict[str, str | dict[str, str]] = {
    **{f"squeue_{form}_{name}": told for form in FORMS for name, told in QUEUE.items()},
    **{f"sacct_{form}_{name}": told for form in FORMS for name, told in QUEUE.items()},
    **{f"squeue_default_states_{name}": "nothing" for name in ENDED},
    "squeue_json_ctld_down": f"{NO_SLURMCTLD}|SchedulerError: .*Failed while looking for jobs.*",
    "squeue_json_one_unknown": "nothing",
    "squeue_json_running_only_line": "SchedulerError: cannot read the answer of squeue --json.*",
    "squeue_text_completing": "nothing",
    "squeue_text_ctld_down": NO_SLURMCTLD,
    "squeue_text_many": "(queued|running|ended: completed)( and (queued|running|ended: completed)){2}",
    "squeue_text_one_unknown": "SchedulerError: .*Invalid job id specified.*",
    "squeue_text_some_unknown": "running",
    "sacct_json_dbd_down": NO_SLURMDBD,
    "sacct_json_unknown": "nothing",
    "sacct_text_ctld_down": "ended: completed",
    "sacct_text_dbd_down": NO_SLURMDBD,
    "sacct_text_unknown": "nothing",
    "sbatch_array_ok": "job 3",
    "sbatch_bad_account": "job 5",  # where accounts are not enforced
    "sbatch_bad_constraint": f"{REFUSED}pilots.constraint.*",
    "sbatch_bad_dependency": f"{REFUSED}hpcserve site render.*",
    "sbatch_bad_gres": f"{REFUSED}pilots.gpus_per_node.*",
    "sbatch_bad_nodelist": rf"{REFUSED}\[pilots\].*",
    "sbatch_bad_option": f"{REFUSED}pilots.directives.*",
    "sbatch_bad_partition": f"{REFUSED}pilots.partition.*",
    "sbatch_bad_qos": "job 4",
    "sbatch_bad_reservation": f"{REFUSED}pilots.reservation.*",
    "sbatch_bad_time_format": f"{REFUSED}pilots.walltime_s.*",
    "sbatch_ctld_down": "SchedulerError: .*connect failure.*submitted again",
    "sbatch_no_shebang": f"{REFUSED}hpcserve site render.*",
    "sbatch_parsable_ok": "job 1",
    "sbatch_plain_ok": "job 2",
    "sbatch_script_missing": f"{REFUSED}hpcserve site render.*",
    "sbatch_test_only": "ok: Slurm would take it: Job 1[34] to start at .* on nodes node1 in partition batch",
    "sbatch_time_over_partition_max": "job 9",
    "sbatch_too_many_cpus": "job 7",
    "sbatch_too_many_gpus": rf"{REFUSED}\[pilots\].*",
    "sbatch_too_many_nodes": "job 6",
    "sbatch_too_much_mem": f"{REFUSED}pilots.memory_per_node_mib.*",
    "scancel_ctld_down": NO_SLURMCTLD,
    "scancel_finished": "nothing to cancel, or cancelled",
    "scancel_garbage": "Answered: .*Invalid job id abc.*",
    "scancel_ok_pending": "nothing to cancel, or cancelled",
    "scancel_ok_running": "nothing to cancel, or cancelled",
    "scancel_unknown": "nothing to cancel, or cancelled",
    "scontrol_ping": r"ok: Slurmctld\(primary\) at login is UP",
    "scontrol_ping_ctld_down": r"failed: Slurmctld\(primary\) at login is DOWN.*; ask the facility, or try again later",
    "scontrol_show_hostnames": "node1,node2,node3,x08,x09,x10",
    "scontrol_show_partition": r"ok: batch, up, at most 7-00:00:00 \(the default\)",
    "sinfo_version": r"ok: slurm(-wlm)? \d\d\.\d\d\.\d",
    "asked_sbatch_bad_partition": f"{REFUSED}pilots.partition.*",
    "asked_sbatch_bad_reservation": f"{REFUSED}pilots.reservation.*",
    "asked_sbatch_no_script": f"{REFUSED}Batch script is empty.*",
    "asked_scancel_ended": "nothing to cancel, or cancelled",
    "asked_squeue_many": MANY,
    "asked_squeue_lost": LOST,
    "asked_squeue_later": LATER,
    # Accounting tells of the end while processes of the job live on, and of a start when it has noticed it.
    "asked_sacct_many": MANY | {"ignores": "ended: cancelled"},
    "asked_sacct_lost": LOST
    | {"requeued": "ended: preempted", "node_lost_requeued": "ended: node failed", "urgent": "queued"},
    "asked_sacct_later": LATER,
    "asked_squeue_ctld_down": NO_SLURMCTLD,
    "asked_sacct_dbd_down": NO_SLURMDBD,
}
OF_ONE_RELEASE = {
    # Just after a requeue 22.05's accounting has only the run before.
    **{("22.05", f"sacct_{form}_node_fail_requeued"): "ended: node failed" for form in FORMS},
    **{("22.05", f"sacct_{form}_requeued_by_preemption"): "ended: preempted" for form in FORMS},
    ("22.05", "sbatch_bad_dependency"): "job 11",
    ("25.11", "squeue_json_one_unknown"): "SchedulerError: .*Invalid job id specified.*",
}


@pytest.mark.parametrize(("release", "name"), named(""))
def test_each_recorded_answer_ends_as_what_happened(release: str, name: str, tmp_path: Path) -> None:
    answer = recording(release, name)
    expected = OF_ONE_RELEASE.get((release, name)) or EXPECTED[name]
    outcome = asyncio.run(ended_as(release, name, answer, tmp_path))
    if isinstance(expected, dict):
        assert outcome == expected
    else:
        assert isinstance(outcome, str)
        assert re.fullmatch(expected, outcome, re.DOTALL), outcome


async def ended_as(release: str, name: str, answer: dict[str, Any], directory: Path) -> str | dict[str, str]:
    """What came of it, in words."""
    command, first = answer["argv"][0], answer["argv"][1:2]
    if first == ["show"]:
        return nodes_of(name, answer, directory)
    if command in ("scontrol", "sinfo") or name == "sbatch_test_only":
        return await found_by_a_check(release, name, directory)
    # Any release is asked for JSON by this version, and for text by that one.
    replay(
        directory,
        dict.fromkeys((command, "squeue"), (name, answer)),
        version="25.11.7" if "_json_" in name else "22.05.8",
    )
    runner = Runner(timeout_s=20.0, environment={"PATH": str(directory)})
    transport = CommandsTransport(runner, wall_clock=lambda: answer.get("asked_s", 0.0))
    try:
        match command:
            case "sbatch":
                return f"job {await transport.submit('#!/bin/sh')}"
            case "scancel":
                await transport.cancel(JobId(answer["argv"][1]))
                return "nothing to cancel, or cancelled"
            case "squeue":
                jobs = await transport.queue()
            case "sacct":
                jobs = await transport.history([JobId("1")])
    except SchedulerError as error:
        return f"{type(error).__name__}: {error}"
    return by_name(answer, jobs) if name.startswith("asked_") else of_those_asked_about(answer, jobs)


async def found_by_a_check(release: str, name: str, directory: Path) -> str:
    """What ``hpcserve site check`` says of it where all else is as on a good day."""
    good = {
        "sinfo": "sinfo_version",
        "scontrol ping": "scontrol_ping",
        "scontrol --oneliner": "scontrol_show_partition",
        "sbatch": "sbatch_test_only",
        **dict.fromkeys(("squeue", "sacct", "scancel", "sacctmgr"), "scancel_unknown"),
    }
    subjects = {
        "sinfo": "Slurm",
        "scontrol ping": "slurmctld",
        "scontrol --oneliner": "partition",
        "sbatch": "job script",
    }
    (question,) = [each for each, recorded in good.items() if name.startswith(recorded)]
    answers = {each: (one, recording(release, one)) for each, one in (good | {question: name}).items()}
    replay(directory, answers)
    site = msgspec.structs.replace(
        read_site("slurm"), scheduler=Scheduler(kind="slurm", transport="commands"), pilots=Pilots(walltime_s=600.0)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(directory))
        findings = [each async for each in questions(site, "#!/bin/sh", "ada")]
    assert findings[0] == Finding("commands", "ok", ", ".join(COMMANDS))
    (found,) = [each for each in findings if each.subject == subjects[question]]
    return f"{found.outcome}: {found.told}"


def nodes_of(name: str, answer: dict[str, Any], directory: Path) -> str:
    """What the job script gives the agent as the names of its nodes."""
    replay(directory, {"scontrol": (name, answer)})
    agent = directory / "agent"
    agent.write_text('#!/bin/sh\necho "$@"\n')
    agent.chmod(0o755)
    slurm = read_site("slurm")
    site = msgspec.structs.replace(slurm, pilots=msgspec.structs.replace(slurm.pilots, nodes=2, launcher="srun"))
    environment = {"PATH": str(directory), "SLURM_JOB_NODELIST": answer["argv"][3]}
    script = job_script(site, pilot_job(directory), "x")
    argv = ("/bin/bash", "-c", script)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=True)
    words = done.stdout.split()
    return words[words.index("--nodes") + 1]


def by_name(answer: dict[str, Any], jobs: Collection[SlurmJob]) -> dict[str, str]:
    names = {job: name for name, job in answer["jobs"].items()}
    return {names[job.job]: told(job) for job in jobs}


def of_those_asked_about(answer: dict[str, Any], jobs: Collection[SlurmJob]) -> str:
    asked = asked_id(answer).split(",") if "-j" in answer["argv"] else [job.job for job in jobs]
    return " and ".join(sorted({told(job) for job in jobs if job.job in asked})) or "nothing"


def told(job: SlurmJob) -> str:
    state = state_of(job)
    return f"{state.phase}: {state.end}" if state.end else state.phase
