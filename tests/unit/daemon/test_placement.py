"""The job that a daemon runs in: what it asks for, what it runs, and by what it is told from the pilots' jobs."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
from pathlib import Path

import msgspec
import pytest

from hpcserve import config
from hpcserve.cluster import plugins
from hpcserve.cluster.runner import Answer
from hpcserve.cluster.script import job_script
from hpcserve.cluster.seam import JobState, job_name
from hpcserve.cluster.slurm_reasons import in_words
from hpcserve.cluster.slurm_refusals import refusal
from hpcserve.config import Site, load_site
from hpcserve.daemon import placement
from hpcserve.daemon.controller.job import service_tag
from hpcserve.daemon.plans import daemon_plans
from hpcserve.errors import ConfigError, SchedulerError
from tests.unit.daemon import scheduler_stage

RUNS, QUEUED = JobState(phase="running", host="node1"), JobState(phase="queued")
ENDED = JobState(phase="ended", end="completed")
LAB = """
base = "slurm"
state_dir = "$LAB_HOME/state"
[network]
host = "lo"
[pilots]
python = "/opt/py thon"
setup = ["module load x"]
partition = "gpu"
gpus_per_node = 4
nodes = 2
launcher = "srun"
reservation = "week"
exclusive = true
directives = ["--gres=x"]
[daemon]
placement = "job"
partition = "shared"
walltime_s = 7200
warn_s = 300
cpus_per_node = 2
memory_per_node_mib = 900
directives = ["--nice"]
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "lab"))
    path = tmp_path / "lab.toml"
    path.write_text(LAB)
    return path


def test_a_script_that_cannot_be_made_is_told_by_the_fields_of_the_daemon(lab: Path) -> None:
    placement.check_script(load_site(str(lab)))
    lab.write_text(LAB.replace('"--nice"', '"--time=5"'))
    with pytest.raises(ConfigError, match=r"^daemon.directives: expected no -t, --time, .*; set daemon.walltime_s$"):
        placement.check_script(load_site(str(lab)))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Site]:
    """The sites whose schedulers were opened."""
    found: list[Site] = []

    def note(site: Site) -> object:
        found.append(site)
        return plugins.open_scheduler(site)

    monkeypatch.setattr(placement, "open_scheduler", note)
    return found


def test_the_script_of_the_job_asks_for_what_the_daemon_needs(lab: Path, opened: list[Site], tmp_path: Path) -> None:
    site = load_site(str(lab))
    placement.open_placing(site)
    job = placement.daemon_job(site, str(lab))
    script = job_script(opened[0], job, job_name(job.tag, job.pilot))
    lines = script.splitlines()
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
    assert {"partition=shared", "nodes=1", "cpus-per-task=2", "mem=900M", "time=0-02:00:00"} <= set(asked)
    assert {"signal=B:USR1@300", "no-requeue"} <= set(asked)
    assert asked[-2:] == ["dependency=singleton", "nice"]
    assert not [each for each in asked if each.startswith(("gpus", "reservation", "exclusive", "gres", "no-kill"))]
    assert "module load x" in lines
    (command,) = [line for line in lines if line.startswith("exec ")]
    home = f"HPCSERVE_HOME={config.home()}"
    expected = ["exec", "env", home, f"LAB_HOME={tmp_path}/lab", "/opt/py thon", "-P", "-m", "hpcserve.daemon"]
    assert shlex.split(command.rstrip("\\")) == [*expected, "--site", str(lab), "--placed"]


def test_what_pilots_may_be_made_smaller_to_is_nothing_to_the_daemon(lab: Path, opened: list[Site]) -> None:
    site = load_site(str(lab))
    shape = {"nodes": 4, "min_nodes": 2, "walltime_s": 86_400.0, "min_walltime_s": 2 * site.daemon.walltime_s}
    placement.open_placing(msgspec.structs.replace(site, pilots=msgspec.structs.replace(site.pilots, **shape)))
    assert (opened[0].pilots.nodes, opened[0].pilots.walltime_s) == (1, site.daemon.walltime_s)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("invalid partition specified: nosuch", "correct daemon.partition in the site file"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "lower daemon.walltime_s in the site"),
        ("Partition in DOWN state", "or choose another daemon.partition"),
        ("Invalid account or account/partition combination specified", "correct daemon.account in the site file"),
        ("Requested node configuration is not available", "ask for fewer or smaller nodes in [daemon] of the site"),
        ("Invalid feature specification", "correct daemon.constraint in the site file"),
    ],
)
def test_a_refusal_names_the_field_of_the_daemon(
    lab: Path, monkeypatch: pytest.MonkeyPatch, line: str, told: str
) -> None:
    cluster = scheduler_stage.Cluster()
    said = f"sbatch: error: Batch job submission failed: {line}"
    answer = Answer(argv=("sbatch",), exit_code=1, stdout=b"", stderr=said)
    cluster.troubles.append(refusal(answer))
    monkeypatch.setattr(placement, "open_scheduler", lambda _site: cluster)
    site = load_site(str(lab))
    with pytest.raises(SchedulerError) as refused:
        asyncio.run(placement.open_placing(site).submit(placement.daemon_job(site, str(lab))))
    assert told in refused.value.message
    assert "pilots." not in refused.value.message


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("PartitionTimeLimit", "so it does not start; lower daemon.walltime_s"),
        ("PartitionNodeLimit", "so it does not start; choose another daemon.partition"),
        ("PartitionConfig", "so it does not start; lower daemon.walltime_s, or choose another daemon.partition"),
        ("PartitionDown", "starts none at present; wait, or choose another daemon.partition"),
        ("BadConstraints", "look at daemon.constraint, daemon.cpus_per_node and daemon.memory_per_node_mib"),
        ("ReservationDeleted", "its reservation was deleted; correct daemon.directives"),
    ],
)
def test_what_its_job_waits_for_names_the_field_of_the_daemon(
    lab: Path, monkeypatch: pytest.MonkeyPatch, reason: str, told: str
) -> None:
    cluster = scheduler_stage.Cluster()
    job = cluster.take("x", placement.NAME, JobState(phase="queued", cause=in_words(reason)))
    monkeypatch.setattr(placement, "open_scheduler", lambda _site: cluster)
    placing = placement.open_placing(load_site(str(lab)))
    assert asyncio.run(placing.poll([job]))[job].cause.endswith(told)


def test_its_name_is_none_that_a_pilot_could_have(lab: Path) -> None:
    """A daemon ends the jobs of its tag that it does not know."""
    site = load_site(str(lab))
    job = placement.daemon_job(site, str(lab))
    assert not job_name(job.tag, job.pilot).startswith(job_name(service_tag(site.shared_dir), job.pilot)[:-1])
    later = placement.daemon_job(site, str(lab))
    assert dataclasses.astuple(job) == dataclasses.astuple(later), "all have one name: one begins at a time"


def test_only_a_daemon_in_a_job_knows_its_site_by_name(lab: Path) -> None:
    site = load_site(str(lab))
    assert {plan.placed for plan in daemon_plans(site, str(lab))} == {""}
    assert {plan.placed for plan in daemon_plans(site, str(lab), placed=str(lab))} == {str(lab)}


def test_a_site_without_a_batch_scheduler_has_no_job_for_it(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text('base = "local"\n[daemon]\nplacement = "job"\n')
    with pytest.raises(ConfigError, match="lab.toml: daemon.placement: 'job' needs a batch scheduler"):
        load_site(str(path))


@pytest.mark.parametrize("living", [(), (RUNS,), (RUNS, QUEUED), (ENDED, RUNS)])
def test_one_next_job_waits_however_often_it_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, living: tuple[JobState, ...]
) -> None:
    lab, cluster = scheduler_stage.site(tmp_path), scheduler_stage.Cluster()
    monkeypatch.setattr(placement, "open_placing", lambda _site: cluster)
    jobs = [cluster.take(placement.tag_of(lab), placement.NAME, state) for state in living]

    async def scene() -> None:
        first = await placement.submit(lab, "local")
        assert (first in jobs) == (QUEUED in living)
        cluster.become(first, QUEUED)
        assert await placement.submit(lab, "local") == first

    asyncio.run(scene())
    assert cluster.submissions == (QUEUED not in living)
