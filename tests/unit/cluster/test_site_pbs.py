"""What a site's check asks PBS by its commands, over stand-ins that answer as recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from hpcserve.cluster.finding import Finding
from hpcserve.cluster.site_pbs import COMMANDS
from hpcserve.cluster.site_questions import questions, steps_in_jobs
from hpcserve.config import Site, read_site

DATA = Path(__file__).resolve().parents[2] / "data" / "openpbs-23.06"


def asked(site: Site) -> dict[str, Finding]:
    async def ask() -> list[Finding]:
        return [finding async for finding in questions(site, "", "ada")]

    return {finding.subject: finding for finding in asyncio.run(ask())}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with PBS's commands; qstat answers to the words of the recordings, and to nothing else."""
    for name in COMMANDS:
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    for name in ("server", "queues"):
        recording = json.loads((DATA / f"qstat_{name}.json").read_text())
        (tmp_path / " ".join(recording["argv"][1:])).write_text(recording["stdout"])
    (tmp_path / "qstat").write_text(f'#!/bin/sh\nexec cat "{tmp_path}/$*"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.usefixtures("commands")
def test_a_server_that_is_up_is_asked_about_itself_and_its_queue() -> None:
    found = asked(read_site("pbs"))
    assert {subject: finding.outcome for subject, finding in found.items()} == {
        "commands": "ok",
        "PBS": "ok",
        "history": "ok",
        "queue": "ok",
    }
    assert found["queue"].told.startswith("workq (the default)")


def test_a_server_that_is_down_is_asked_no_more(commands: Path) -> None:
    (commands / "qstat").write_text("#!/bin/sh\necho 'qstat: cannot connect to server pbs (errno=111)' >&2\nexit 255\n")
    found = asked(read_site("pbs"))
    assert list(found) == ["commands", "PBS"]
    assert (found["PBS"].outcome, "errno=111" in found["PBS"].told) == ("failed", True)


def test_a_host_without_the_commands_is_told(commands: Path) -> None:
    (commands / "qselect").unlink()
    found = asked(read_site("pbs"))
    assert list(found) == ["commands"]
    assert found["commands"].told.startswith("qselect not found in PATH; ")


def test_nothing_can_be_begun_in_a_job_of_pbs_from_without() -> None:
    """A look from a compute node is a job of one minute there."""
    assert steps_in_jobs(read_site("slurm"))
    assert not steps_in_jobs(read_site("pbs"))


def test_a_scheduler_of_another_package_is_asked_nothing() -> None:
    assert asked(read_site("local")) == {}
