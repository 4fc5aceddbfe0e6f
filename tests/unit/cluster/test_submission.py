"""What the answer to a submission means is the same of every batch scheduler; its words are its own."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hpcserve.cluster.pbs_commands import PbsCommands
from hpcserve.cluster.runner import Runner
from hpcserve.cluster.slurm_commands import CommandsTransport
from hpcserve.errors import HpcserveError, JobRefused, SubmissionUnknown

NAMES = ("sbatch", "qsub")


def submit(place: Path, name: str, does: str, *, timeout_s: float = 20.0) -> str:
    """The id of a job that a command of this name is handed in by, which does this."""
    command = place / name
    command.write_text(f"#!/bin/bash\n{does}\n")
    command.chmod(0o755)
    runner = Runner(timeout_s=timeout_s, environment={"PATH": f"{place}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    asked = CommandsTransport(runner) if name == "sbatch" else PbsCommands(runner, user="ada")
    return asyncio.run(asked.submit("the script"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("does", "error", "told"),
    [
        ("exec sleep 60", SubmissionUnknown, "the job may have been taken: its name will tell"),
        (
            "echo 7; exit 3",
            SubmissionUnknown,
            "the id of a job before, 7; if it is there, its name will tell",
        ),
        ("echo good day", SubmissionUnknown, "took the job, it seems, but printed no id: 'good day'"),
        ("echo 7; echo 8", SubmissionUnknown, "took the job, it seems, but printed no id: '7 8'"),
        ("exit 3", SubmissionUnknown, "ended with exit code 3 and without a word"),
        ("echo 'moonshine' >&2; exit 3", JobRefused, "moonshine; look at the script with `hpcserve site render`"),
    ],
)
def test_what_is_not_an_id_alone_is_an_error(
    tmp_path: Path, name: str, does: str, error: type[HpcserveError], told: str
) -> None:
    with pytest.raises(error) as caught:
        submit(tmp_path, name, does, timeout_s=0.5 if "sleep" in does else 20.0)
    assert type(caught.value) is error
    assert told in caught.value.message
    assert name in caught.value.message or error is JobRefused


@pytest.mark.parametrize("name", NAMES)
def test_a_job_is_handed_in_with_the_priority_and_the_locale_that_it_would_have(tmp_path: Path, name: str) -> None:
    said = tmp_path / "said"
    told = {"sbatch": "7", "qsub": "7.pbs"}[name]
    assert submit(tmp_path, name, f"echo $(nice) $LC_ALL $(cat) >{said}; echo Be greeted; echo {told}") == told
    assert said.read_text() == f"{os.getpriority(os.PRIO_PROCESS, 0)} C.UTF-8 the script\n"
