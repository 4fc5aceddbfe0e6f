"""Stand-ins for PBS's commands that answer what a test says, by their command lines, and the adapter over them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcserve.cluster.pbs import PbsScheduler
from hpcserve.cluster.pbs_commands import PbsCommands
from hpcserve.cluster.runner import Runner
from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.types import PilotId

DATA = Path(__file__).parents[2] / "data" / "openpbs-23.06"
NAMES = sorted(path.stem for path in DATA.glob("*.json"))
TAG = "0a1b2c3d"
QSTAT = "qstat -f -F json -x"
DOWN = "Connection refused\nqstat: cannot connect to server pbs (errno=111)\n"

_COMMAND = """#!/bin/sh
command=${0##*/}
directory=${0%/*}
echo "$command $*" >>"$directory/asked"
[ "$command" = qsub ] && /bin/cat >"$directory/script"
answer="$directory/$command $*"
[ -e "$answer.code" ] || answer=$directory/$command
[ -e "$answer.does" ] && . "$answer.does"
/bin/cat "$answer.out"
/bin/cat "$answer.err" >&2
exit "$(/bin/cat "$answer.code")"
"""


def recording(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return found


def job(**fields: object) -> dict[str, object]:
    """The fields of a pilot's job as PBS has them, but for these; None leaves one out."""
    usual = {
        "Job_Name": f"hpcserve-{TAG}-1",
        "Job_Owner": "me@login1",
        "job_state": "R",
        "substate": 42,
        "exec_host": "node1/0*2",
        "exec_vnode": "(node1:ncpus=2)",
        "run_count": 1,
    }
    return {key: value for key, value in (usual | fields).items() if value is not None}


def answer(jobs: Mapping[str, Mapping[str, object]], *, timestamp: int = 1795221415) -> str:
    """Of qstat, with these jobs."""
    told: dict[str, object] = {"timestamp": timestamp, "pbs_version": "23.06.06", "pbs_server": "pbs"}
    return json.dumps(told | ({"Jobs": jobs} if jobs else {}), indent="\t") + "\n"


class FakePbs:
    """What the stand-ins answer, and what they were asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_s = 1000.0
        for command in ("qsub", "qstat", "qdel", "qselect"):
            path = directory / command
            path.write_text(_COMMAND)
            path.chmod(0o755)
        self.says("qdel")
        self.says("qstat -T 1.pbs")

    def says(self, words: str, out: str = "", *, err: str = "", code: int = 0, does: str = "") -> None:
        """``words``: a command, or a whole command line, which goes before the command alone."""
        for ending, content in {"out": out, "err": err, "code": str(code)}.items():
            (self.directory / f"{words}.{ending}").write_text(content)
        if does:
            (self.directory / f"{words}.does").write_text(does)

    def replays(self, name: str) -> None:
        found = recording(name)
        self.says(" ".join(found["argv"]), found["stdout"], err=found["stderr"], code=found["exit_code"])

    def has(self, jobs: Mapping[str, Mapping[str, object]], *, ids: Sequence[str] = ()) -> None:
        """One qstat for all of these ids, sorted, tells of these jobs; by default of all that are asked for."""
        self.says(" ".join([QSTAT, *sorted(ids or jobs)]), answer(jobs))

    @property
    def asked(self) -> list[str]:
        path = self.directory / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def commands(self, *, timeout_s: float = 30.0) -> PbsCommands:
        environment = {"PATH": f"{self.directory}:/usr/bin:/bin"}
        return PbsCommands(Runner(timeout_s=timeout_s, environment=environment), user="me")

    def scheduler(self, *, timeout_s: float = 30.0) -> PbsScheduler:
        return PbsScheduler(
            self.commands(timeout_s=timeout_s),
            user="me",
            render=lambda job, name: f"#!/bin/sh\n#PBS -N {name}\n{job.argv}\n",
            clock=lambda: self.now_s,
        )


def polled(scheduler: PbsScheduler, *jobs: str) -> dict[str, JobState]:
    return {str(name): state for name, state in asyncio.run(_polled(scheduler, jobs)).items()}


async def _polled(scheduler: PbsScheduler, jobs: Sequence[str]) -> Mapping[JobId, JobState]:
    return await scheduler.poll([JobId(name) for name in jobs])


def pilot_job(directory: Path) -> PilotJob:
    return PilotJob(
        pilot=PilotId("1"),
        tag=TAG,
        argv=("true",),
        directory=directory,
        log=directory / "1.log",
        walltime_s=60.0,
    )
