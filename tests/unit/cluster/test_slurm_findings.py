"""What the answers of Slurm's commands say about a site. The answers are those of Slurm 22.05.8."""

from __future__ import annotations

from typing import Any

import pytest

from hpcserve.cluster import slurm_findings
from hpcserve.cluster.finding import Asked
from hpcserve.cluster.runner import Answer
from hpcserve.config import Pilots
from hpcserve.errors import SchedulerError

SILENT = SchedulerError("sinfo did not answer within 30 s")
PARTITIONS = """\
PartitionName=batch Default=YES MaxNodes=UNLIMITED MaxTime=7-00:00:00 MinNodes=0 Nodes=node[1-4] State=UP TotalNodes=4
PartitionName=debug Default=NO MaxNodes=2 MaxTime=00:30:00 MinNodes=0 Nodes=node[1-4] State=UP TotalNodes=4
PartitionName=large Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=3 Nodes=node[1-4] State=UP TotalNodes=4
PartitionName=off Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 Nodes=node[1-4] State=DOWN TotalNodes=4
"""


def answer(stdout: str = "", *, exit_code: int = 0, stderr: str = "") -> Answer:
    return Answer(argv=("asked",), exit_code=exit_code, stdout=stdout.encode(), stderr=stderr)


def pilots(**asked: Any) -> Pilots:
    return Pilots(**{"walltime_s": 600.0, "launcher": "srun", **asked})


@pytest.mark.parametrize(
    ("asked", "outcome", "told"),
    [
        ({}, "ok", "batch, up, at most 7-00:00:00 (the default)"),
        ({"partition": "debug", "nodes": 2}, "ok", "debug, up, at most 00:30:00"),
        ({"partition": "batch,debug"}, "ok", "batch, up, at most 7-00:00:00, debug, up, at most 00:30:00"),
        ({"partition": "debug", "walltime_s": 1801.0}, "failed", "debug: pilots.walltime_s: expected ≤ 1800, got 1801"),
        ({"partition": "debug", "nodes": 3}, "failed", "debug: pilots.nodes: expected ≤ 2 (MaxNodes), got 3"),
        ({"nodes": 5}, "failed", "batch: pilots.nodes: expected ≤ 4 (TotalNodes), got 5"),
        ({"partition": "large", "nodes": 2}, "failed", "large: pilots.nodes: expected ≥ 3 (MinNodes), got 2"),
        ({"partition": "off"}, "failed", "off: its state is DOWN; wait, or set another pilots.partition"),
        (
            {"partition": "gpu"},
            "failed",
            "gpu: there is no such partition; correct pilots.partition: there are batch, debug, large, off",
        ),
    ],
)
def test_the_partition(asked: dict[str, Any], outcome: str, told: str) -> None:
    found = slurm_findings.partition(pilots(**asked), answer(PARTITIONS))
    assert (found.outcome, found.told) == (outcome, told)


NODES = "batch* idle\nbatch* down*\noff down*\noff drained\nempty n/a\n"


@pytest.mark.parametrize(
    ("partition", "outcome", "told"),
    [
        ("", "ok", "down, idle"),
        ("off", "failed", "all nodes of partition off are down or drained; `sinfo -R` says why: wait, or set another"),
        ("off,batch", "ok", "down, drained, idle"),
        ("nope", "ok", "none listed"),
    ],
)
def test_a_partition_without_a_node_that_starts_jobs(partition: str, outcome: str, told: str) -> None:
    found = slurm_findings.nodes(pilots(partition=partition), answer(NODES))
    assert (found.outcome, found.told[: len(told)]) == (outcome, told)
    assert slurm_findings.nodes(pilots(), SILENT).outcome == "failed"


def test_a_cluster_without_a_default_partition_wants_one_named() -> None:
    found = slurm_findings.partition(pilots(), answer(PARTITIONS.replace("Default=YES", "Default=NO")))
    assert (found.outcome, found.told.partition(": ")[2]) == (
        "failed",
        "set pilots.partition to one of batch, debug, large, off",
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7-00:00:00", 604800.0),
        ("1-12", 129600.0),
        ("1-12:30", 131400.0),
        ("02:00:00", 7200.0),
        ("30:15", 1815.0),
        ("30", 1800.0),
        ("UNLIMITED", None),
        ("infinite", None),
        ("", None),
    ],
)
def test_times_as_slurm_writes_them(text: str, seconds: float | None) -> None:
    assert slurm_findings.time_s(text) == seconds


ASSOCIATIONS = "m1||debug,regular\nm1_g||regular\n"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [("account", "ok", "your default one; yours: m1, m1_g")]),
        ({"account": "m1_g"}, [("account", "ok", "m1_g")]),
        ({"account": "m1", "qos": "debug"}, [("account", "ok", "m1"), ("qos", "ok", "debug")]),
        (
            {"account": "m1_g", "qos": "debug"},
            [
                ("account", "ok", "m1_g"),
                ("qos", "failed", "pilots.qos: 'debug' is unknown here; this account has: regular"),
            ],
        ),
        ({"account": "m2"}, [("account", "failed", "pilots.account: 'm2' is unknown here; yours: m1, m1_g")]),
    ],
)
def test_the_account_and_its_qos(asked: dict[str, Any], found: list[tuple[str, str, str]]) -> None:
    findings = slurm_findings.account(pilots(**asked), answer(ASSOCIATIONS))
    assert [(each.subject, each.outcome, each.told) for each in findings] == found


@pytest.mark.parametrize(
    "asked", [SILENT, answer(exit_code=1, stderr="accounting storage is disabled"), answer("")], ids=str
)
def test_without_accounting_no_account_is_called_wrong(asked: Asked) -> None:
    assert [each.outcome for each in slurm_findings.account(pilots(account="m1"), asked)] == ["skipped"]


@pytest.mark.parametrize(
    ("constraint", "outcome", "told"),
    [
        ("gpu", "ok", "gpu"),
        ("gpu&hbm80g", "ok", "gpu&hbm80g"),
        ("[cpu*2&gpu*1]", "ok", "[cpu*2&gpu*1]"),
        ("knl", "failed", "pilots.constraint: 'knl' is unknown here; nodes have: cpu, gpu, hbm80g"),
        ("gpu|(knl&cpu)", "failed", "pilots.constraint: 'knl' is unknown here; nodes have: cpu, gpu, hbm80g"),
    ],
)
def test_the_constraint(constraint: str, outcome: str, told: str) -> None:
    found = slurm_findings.constraint(pilots(constraint=constraint), answer("gpu,hbm80g\ncpu\n(null)\n"))
    assert (found.outcome, found.told) == (outcome, told)


def test_slurms_own_opinion_of_the_script() -> None:
    taken = answer(
        stderr="sbatch: Job 1 to start at 2026-11-21T19:22:29 using 1 processors on nodes node1 in partition batch"
    )
    assert slurm_findings.submission(taken).told.startswith("Slurm would take it: Job 1 to start at")
    refused = answer(exit_code=1, stderr="allocation failure: Invalid feature specification")
    found = slurm_findings.submission(refused)
    assert found.outcome == "failed"
    assert found.told.startswith("Slurm would refuse it: allocation failure: Invalid feature specification; look")


@pytest.mark.parametrize(
    ("said", "exit_code", "outcome"),
    [
        ("Slurmctld(primary) at login is UP", 0, "ok"),
        ("Slurmctld(primary) at login is DOWN", 1, "failed"),
        ("Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP", 0, "ok"),
    ],
)
def test_the_controller(said: str, exit_code: int, outcome: str) -> None:
    assert slurm_findings.controller(answer(said, exit_code=exit_code)).outcome == outcome


@pytest.mark.parametrize(
    ("wanted", "unusable", "outcome", "told"),
    [
        ("auto", "pyslurm is not installed", "ok", "Slurm's commands: pyslurm is not installed"),
        ("auto", "", "ok", "pyslurm"),
        ("commands", "", "ok", "Slurm's commands, as the site wants"),
        ("pyslurm", "", "ok", "pyslurm"),
        ("pyslurm", "it is old", "failed", 'it is old; set scheduler.transport to "auto" or "commands"'),
    ],
)
def test_the_way_to_slurm(wanted: str, unusable: str, outcome: str, told: str) -> None:
    found = slurm_findings.transport(wanted, unusable)
    assert (found.outcome, found.told) == (outcome, told)


def test_a_command_without_an_answer_fails_what_depends_on_it() -> None:
    bad = answer(exit_code=1, stderr="slurm_load_partitions: Unable to contact slurm controller")
    for asked in (SILENT, bad):
        for found in (
            slurm_findings.version(asked),
            slurm_findings.controller(asked),
            slurm_findings.partition(pilots(), asked),
            slurm_findings.constraint(pilots(constraint="gpu"), asked),
            slurm_findings.submission(asked),
        ):
            assert found.outcome == "failed", found
            assert "did not answer" in found.told or "Unable to contact" in found.told


MPI_OF_22 = (
    "MPI plugin types are...\n\tpmix\n\tnone\n\tcray_shasta\n\tpmi2\nspecific pmix plugin versions available: pmix_v4\n"
)
MPI_OF_20 = "srun: MPI types are...\nsrun: none\nsrun: pmix_v3\nsrun: pmix\n"


@pytest.mark.parametrize(
    ("pmi", "asked", "outcome", "told"),
    [
        ("pmi2", answer(MPI_OF_22), "ok", "srun --mpi=pmi2"),
        ("pmix_v4", answer(MPI_OF_22), "ok", "srun --mpi=pmix_v4"),
        ("pmix", answer(stderr=MPI_OF_20), "ok", "srun --mpi=pmix"),
        ("pmi2", answer(stderr=MPI_OF_20), "warning", "it has none, pmix, pmix_v3: set mpi.pmi to one of them"),
        ("pmix_v5", answer(MPI_OF_22), "failed", "no replica of several ranks would start"),
        ("pmi2", SILENT, "skipped", "sinfo did not answer"),
        ("pmi2", answer(exit_code=1, stderr="srun: error: x"), "skipped", "srun: error: x"),
    ],
)
def test_the_interface_by_which_ranks_find_one_another(pmi: str, asked: Asked, outcome: str, told: str) -> None:
    found = slurm_findings.mpi(pmi, asked)
    assert found.outcome == outcome
    assert told in found.told
