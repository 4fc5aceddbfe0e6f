"""Records what a real Slurm answers to the questions that hpcserve asks, one file an answer.

Run it as root on the login node of a throw-away cluster with the partitions `batch` and `preempt` over the same four
nodes of four cores each, the second preemptible with PreemptMode=REQUEUE:

    python tests/data/record_slurm.py DIRECTORY

It takes two minutes, sets nodes down, and kills slurmdbd and slurmctld at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from hpcserve.cluster.slurm_commands import HISTORY_TEXT, QUEUE_TEXT
from hpcserve.cluster.slurm_text import TIME_FORMAT

DIRECTORY = Path(sys.argv[1])
RELEASE = subprocess.check_output(["squeue", "--version"], text=True).split()[-1]
jobs: dict[str, str] = {}


def record(name: str, *argv: str, stdin: str = "") -> None:
    began = time.time()
    answer = subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | TIME_FORMAT | {"LC_ALL": "C"},
    )
    (DIRECTORY / f"{name}.json").write_text(
        json.dumps(
            {
                "argv": argv,
                "stdin": stdin,
                "exit_code": answer.returncode,
                "stdout": answer.stdout,
                "stderr": answer.stderr,
                "asked_s": round(began, 3),
                "jobs": jobs,
                "slurm": RELEASE,
            },
            indent=1,
        )
        + "\n"
    )


def submit(name: str, script: str, *options: str) -> None:
    argv = ("sbatch", "--parsable", "-J", name, "-o", "/dev/null", "-t", "10", *options)
    jobs[name] = subprocess.check_output(argv, input=f"#!/bin/sh\n{script}\n", text=True).strip()


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def state(name: str) -> str:
    argv = ("squeue", "-h", "-t", "all", "-o", "%T %r", "-j", jobs[name])
    return subprocess.check_output(argv, text=True).strip()


def wait(name: str, *wanted: str) -> None:
    end = time.monotonic() + 150
    while not state(name).startswith(wanted):
        if time.monotonic() > end:
            raise TimeoutError(f"{name} is {state(name)}, not {wanted}")
        time.sleep(0.05)


def queue(moment: str) -> None:
    record(f"asked_squeue_{moment}", *QUEUE_TEXT)


def history(moment: str) -> None:
    record(f"asked_sacct_{moment}", *HISTORY_TEXT, f"--jobs={','.join(sorted(jobs.values()))}")


def ends() -> None:
    submit("timeout", "exec sleep 300", "-t", "1", "-w", "node4")
    submit("completed", "true")
    submit("failed", "exit 7")
    submit("signalled", "kill -SEGV $$")
    submit("no_output", "true", "-o", "/nowhere/at/all")
    submit("cancelled", "exec sleep 300")
    submit("cancelled_pending", "true", "--hold")
    submit("held", "true", "--hold")
    submit("begin", "true", "--begin=now+3600")
    submit("never", "true", "-d", f"afterok:{jobs['failed']}")
    submit("too_many_nodes", "true", "-N", "9")
    submit("too_long", "true", "-t", "8-00:00:00")
    submit("two\nlines | and bars", "exec sleep 300")
    submit("two_nodes", "exec sleep 300", "-N", "2", "-w", "node[1-2]")
    submit("suspended", "exec sleep 300")
    submit("ignores", "trap '' TERM; sleep 4 & wait; sleep 3; wait", "-w", "node3")
    wait("ignores", "RUNNING")
    wait("suspended", "RUNNING")
    wait("cancelled", "RUNNING")
    run("scancel", jobs["cancelled"], jobs["cancelled_pending"])
    run("scontrol", "suspend", jobs["suspended"])
    wait("cancelled", "CANCELLED")
    run("scancel", jobs["ignores"])
    wait("ignores", "COMPLETING")
    wait("no_output", "FAILED")
    wait("signalled", "FAILED")
    wait("never", "PENDING DependencyNever")
    wait("suspended", "SUSPENDED")
    queue("many")
    record("asked_scancel_ended", "scancel", jobs["completed"])
    time.sleep(3)
    history("many")
    run("scancel", jobs["suspended"], jobs["two_nodes"], jobs["two\nlines | and bars"])


def losses() -> None:
    submit("requeued", "exec sleep 300", "-p", "preempt", "-w", "node1", "--exclusive")
    submit("preempted", "exec sleep 300", "-p", "preempt", "-w", "node2", "--exclusive", "--no-requeue")
    submit("node_lost", "exec sleep 300", "-w", "node3", "--no-requeue")
    submit("node_lost_requeued", "exec sleep 300", "-w", "node3")
    for name in ("requeued", "preempted", "node_lost", "node_lost_requeued"):
        wait(name, "RUNNING")
    submit("urgent", "exec sleep 300", "-w", "node[1-2]", "-N", "2", "--exclusive")
    run("scontrol", "update", "nodename=node3", "state=down", "reason=test")
    wait("requeued", "PENDING")
    wait("preempted", "PREEMPTED")
    wait("node_lost", "NODE_FAIL")
    wait("node_lost_requeued", "PENDING")
    queue("lost")
    history("lost")
    # With ReturnToService=2 it may have come back by itself, and then there is nothing to resume.
    subprocess.run(("scontrol", "update", "nodename=node3", "state=resume"), check=False)
    wait("node_lost_requeued", "RUNNING")
    run("scancel", jobs["urgent"])
    wait("requeued", "RUNNING")
    wait("timeout", "TIMEOUT")
    queue("later")
    time.sleep(3)
    history("later")


def refusals() -> None:
    for name, options in {"partition": ("-p", "nowhere"), "reservation": ("--reservation=none",)}.items():
        record(f"asked_sbatch_bad_{name}", "sbatch", "--parsable", *options, stdin="#!/bin/sh\n")
    record("asked_sbatch_no_script", "sbatch", "--parsable", stdin="")


def outages() -> None:
    run("kill", Path(os.environ["SLURM_CONF"]).parent.parent.joinpath("run/slurmdbd.pid").read_text().strip())
    time.sleep(1)
    history("dbd_down")
    run("scontrol", "shutdown", "slurmctld")
    time.sleep(2)
    queue("ctld_down")


DIRECTORY.mkdir(parents=True, exist_ok=True)
for act in (ends, losses, refusals, outages):
    act()
