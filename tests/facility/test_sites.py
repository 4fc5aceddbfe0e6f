"""Site ``facility`` fits the box, ``hpcserve site check`` finds that out, and finds what does not fit."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN

pytestmark = pytest.mark.facility

HPCSERVE = (sys.executable, "-m", "hpcserve.cli.main")


@pytest.fixture(autouse=True)
def _idle(box: Box) -> None:
    box.run(LOGIN, ["scancel", "--user=root"])
    box.wait_idle(60)


@pytest.fixture
def home(box: Box, tmp_path: Path) -> Path:
    """The user's hpcserve directory; all nodes see it."""
    made = box.directory / tmp_path.name
    made.mkdir(mode=0o700)
    return made


def own_site(home: Path, text: str) -> None:
    place = home / "sites" / "lab.toml"
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.write_text(f'base = "facility"\n{text}')


def check(box: Box, home: Path, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """The exit code and the lines of ``hpcserve site check``, on the login node."""
    environment = {"HPCSERVE_HOME": str(home), **variables}
    done = box.run(LOGIN, [*HPCSERVE, "site", "check", *arguments], env=environment, timeout_s=100, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def failed(lines: list[str]) -> list[str]:
    return [line.removeprefix("failed").strip() for line in lines if line.startswith("failed")]


def test_the_shipped_site_fits(box: Box, home: Path) -> None:
    code, lines = check(box, home, "facility", "--timeout", "60")
    assert failed(lines) == []
    assert code == 0
    subjects = [line.split()[1].rstrip(":") for line in lines]
    assert subjects[-3:] == ["pilot", "python", "network"]
    assert {"account", "partition", "transport", "slurmctld"} <= set(subjects)
    assert not (home / "sites" / "facility" / "shared").exists(), "what it made, and left empty, goes again"


def test_all_that_does_not_fit_is_told_at_once_and_nothing_is_submitted(box: Box, home: Path) -> None:
    own_site(home, '[pilots]\naccount = "nobody"\npartition = "nope"\nconstraint = "knl"\n')
    code, lines = check(box, home, "lab")
    told = failed(lines)
    assert code == 1
    assert [line.partition(":")[0] for line in told] == ["account", "partition", "constraint", "job script"]
    assert "there are batch, debug, gpu, preempt" in told[1]
    assert lines[-1] == "skipped  pilot: no job was submitted: first correct what failed above"
    assert box.run(LOGIN, ["squeue", "--noheader"]).stdout == ""


@pytest.mark.parametrize(
    ("pilots", "told"),
    [
        ('partition = "debug"\nwalltime_s = 130\n[queues.debug]\nmax_walltime_s = 0', "expected ≤ 120, got 130"),
        ('qos = "nope"', "pilots.qos: 'nope' is unknown here"),
        (
            'partition = "gpu"\nnodes = 3\nlauncher = "srun"\n[queues.gpu]\nmax_nodes = 0',
            r"expected ≤ 2 \(TotalNodes\), got 3",
        ),
        ("gpus_per_node = 3", "Slurm would refuse it: .*[Nn]ode configuration is not available"),
    ],
)
def test_what_the_cluster_would_never_run_is_told(box: Box, home: Path, pilots: str, told: str) -> None:
    own_site(home, f"[pilots]\n{pilots}\n")
    code, lines = check(box, home, "lab", "--no-submit")
    assert code == 1
    assert re.search(told, "\n".join(failed(lines)))


@pytest.mark.parametrize(
    ("pilots", "told"),
    [
        (
            'setup = ["no-such-command nope"]',
            r"a setup command of site lab failed with exit code 127: no-such-command nope$",
        ),
        ('python = "/nope/python"', r"its log ends: .*/nope/python: No such file or directory; compute nodes need .*$"),
    ],
)
def test_a_job_that_ends_at_once_says_why_in_its_own_words(box: Box, home: Path, pilots: str, told: str) -> None:
    own_site(home, f"[pilots]\n{pilots}\n")
    code, lines = check(box, home, "lab", "--timeout", "40")
    assert code == 1
    assert re.search(told, lines[-1])


def test_commands_whose_answers_break_off_are_told(box: Box, home: Path, tmp_path: Path) -> None:
    """An empty queue is no proof: the answer about the job that was tried is."""
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\n{shutil.which("squeue")} "$@" | head --bytes=40\n')
    squeue.chmod(0o755)
    own_site(home, "")
    code, lines = check(box, home, "lab", "--timeout", "60", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert code == 1
    (told,) = failed(lines)
    assert told.startswith("queue: cannot read the answer of squeue: it breaks off")


def test_a_job_that_does_not_start_says_what_it_waits_for_and_is_cancelled(box: Box, home: Path) -> None:
    box.run(LOGIN, ["sbatch", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 300"])
    own_site(home, "")
    code, lines = check(box, home, "lab", "--timeout", "4")
    assert code == 1
    assert re.match(r"failed   pilot: queued \((Resources|Priority): .*\) after 4 s, so it was cancelled", lines[-1])
    names = box.run(LOGIN, ["squeue", "--noheader", "--format=%j"]).stdout
    assert names == "wrap\n"


def test_a_node_that_cannot_connect_back_is_told(box: Box, home: Path) -> None:
    """The login node's other address, which only it has."""
    box.run(LOGIN, ["ip", "address", "replace", "10.99.0.1/32", "dev", "lo"])
    own_site(home, '[network]\nhost = "10.99.0.1"\n')
    code, lines = check(box, home, "lab", "--timeout", "60")
    assert code == 1
    assert re.match(r"failed   network: node\d does not reach this host: 10.99.0.1:", lines[-1])


@pytest.mark.parametrize("site", ["facility", "slurm"])
def test_slurm_takes_the_rendered_script(box: Box, home: Path, site: str) -> None:
    script = box.run(LOGIN, [*HPCSERVE, "site", "render", site], env={"HPCSERVE_HOME": str(home)}).stdout
    file = box.directory / "rendered.sh"
    file.write_text(script)
    said = box.run(LOGIN, ["sbatch", "--test-only", str(file)]).stderr
    assert re.search(r"Job \d+ to start at .* in partition batch", said)
