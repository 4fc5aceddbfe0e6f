"""A daemon that runs in a job, on the command line, while the batch scheduler does not answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve.cluster.seam import job_name
from hpcserve.daemon.controller.job import service_tag
from hpcserve.daemon.placement import NAME
from tests.acceptance.newcomer import User, until, user_in
from tests.unit.cluster.slurm_stage import FAKES, FakeSlurm
from tests.unit.cluster.slurm_stage import record as job_record

SILENT = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
NOT_CONFIRMED = 8
SITE = """
base = "slurm"
[network]
host = "lo"
[daemon]
placement = "job"
[scheduler]
transport = "commands"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    """Slurm's commands, of which squeue has no answer."""
    (tmp_path / "slurm").mkdir()
    made = FakeSlurm(tmp_path / "slurm")
    made.says("squeue", err=SILENT, code=1)
    return made


@pytest.fixture
def user(tmp_path: Path, slurm: FakeSlurm) -> Iterator[User]:
    """Has a site whose daemon runs in a job."""
    with user_in(tmp_path / "home") as made:
        (made.home / "sites").mkdir(parents=True, mode=0o700)
        made.home.chmod(0o700)
        (made.home / "sites" / "lab.toml").write_text(SITE)
        made.environment |= {"PATH": f"{commands(tmp_path, slurm)}:{made.environment['PATH']}", "HPCSERVE_SITE": "lab"}
        yield made


def commands(place: Path, slurm: FakeSlurm) -> Path:
    """Stand-ins that know where they are told what to answer: not all variables are passed to them."""
    made = place / "bin"
    made.mkdir()
    for each in FAKES.iterdir():
        script = made / each.name
        script.write_text(f'#!/bin/sh\nFAKE_SLURM={slurm.directory} exec {each} "$@"\n')
        script.chmod(0o755)
    return made


@pytest.fixture
def record(user: User) -> Path:
    return user.home / "sites" / "lab" / "shared" / "service.json"


def daemon_of(user: User) -> subprocess.Popen[bytes]:
    """What the script of the job runs."""
    argv = [sys.executable, "-m", "hpcserve.daemon", "--site", "lab", "--placed"]
    return subprocess.Popen(argv, env=user.environment, stdin=subprocess.DEVNULL, start_new_session=True)


def test_it_goes_down_though_nobody_knows_of_other_jobs(user: User, slurm: FakeSlurm, record: Path) -> None:
    daemon = daemon_of(user)
    until(record.exists, 60.0)
    done = user.run("down")
    assert daemon.wait(60) == 0
    assert done.returncode == NOT_CONFIRMED, done
    assert b"is down\n" in done.stdout
    said = " ".join(done.stderr.decode().split())
    assert "whether a job of the daemon waits in the queue is not known" in said
    assert "a job of the daemon may wait in the queue, and begin: squeue" in said
    assert "Unable to contact slurm controller" in said
    assert "when the batch scheduler answers again: hpcserve down" in said
    slurm.says("squeue")
    assert "no daemon runs" in user.ok("down")


@pytest.mark.parametrize("fault", ["", "[pilots\n"])
def test_its_pilots_are_not_left_to_a_next_one_though_it_could_only_be_told_by_a_signal(
    user: User, record: Path, fault: str
) -> None:
    daemon = daemon_of(user)
    until(record.exists, 60.0)
    os.kill(user.status()["processes"]["broker"], signal.SIGSTOP)
    with (user.home / "sites" / "lab.toml").open("a") as file:
        file.write(fault)
    assert b"is down\n" in user.run("down").stdout
    assert daemon.wait(60) == 0
    assert "these pilots go on" not in (record.parent / "logs" / "daemon-controller.log").read_text()


def test_the_doctor_says_that_the_job_of_the_daemon_waits_and_does_not_judge_this_host_for_it(
    user: User, slurm: FakeSlurm
) -> None:
    path = user.home / "sites" / "lab.toml"
    path.write_text(SITE.replace('"lo"', '"hsn0"'))
    shared = user.home / "sites" / "lab" / "shared"
    slurm.says("squeue", job_record("7", "PENDING", "Priority", name=job_name(f"daemon-{service_tag(shared)}", NAME)))
    shared.mkdir(parents=True, mode=0o700)
    done = user.run("doctor")
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0, done
    assert [line for line in lines if line.startswith("warning  record: no daemon can be called yet; wait for its job")]
    assert "hpcserve up" not in done.stdout.decode()
    skipped = {line.split()[1] for line in lines if line.startswith("skipped")}
    assert {"interface:", "ports:", "lease:"} <= skipped

    slurm.says("squeue")
    done = user.run("doctor")
    assert done.returncode == 1
    assert b"submit one: hpcserve up" in done.stdout


def test_that_none_runs_is_told_with_what_nobody_knows(user: User) -> None:
    done = user.run("down")
    assert done.returncode == NOT_CONFIRMED, done
    assert b"no daemon runs" in done.stdout
    assert b"a job of the daemon may wait in the queue" in done.stderr
