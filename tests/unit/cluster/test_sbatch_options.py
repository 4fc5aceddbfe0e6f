"""What a job script asks for reaches pyslurm whole, or the job is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.cluster.sbatch_options import description, exported, options
from hpcserve.errors import JobRefused

DATA = Path(__file__).parents[2] / "data"
OWN = {"SLURM_SUBMIT_DIR": "/here"}
OF_SITES = [path for path in sorted((DATA / "jobscripts").glob("*.sh")) if "#SBATCH" in path.read_text()]


def fields(*lines: str) -> dict[str, Any]:
    script = "\n".join(["#!/bin/sh", *(f"#SBATCH {line}" for line in lines), "true", ""])
    found = description(script, {"PATH": "/bin"}, own=OWN)
    assert found.pop("script") == script
    assert found.pop("environment") == {"PATH": "/bin", **OWN}
    return found


def test_a_script_without_options_gets_a_name_and_one_task() -> None:
    assert fields() == {"name": "sbatch", "ntasks": 1}


def test_all_options_of_a_pilot() -> None:
    assert fields(
        "--job-name=hpcserve-t-pilot-1",
        "--account=proj1 --partition=gpu,batch --qos=high",
        "--constraint='gpu&hbm80g'",
        "--reservation=maintenance",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=8",
        "--gpus-per-node=4",
        "--mem=512000M",
        "--exclusive",
        "--requeue",
        "--time=2:00:00",
        "--signal=B:USR1@120",
        "--open-mode=append",
        "--chdir=/scratch/a dir".replace(" ", "\\ "),
        "--output=/scratch/#1/pilot=1.log",
    ) == {
        "name": "hpcserve-t-pilot-1",
        "account": "proj1",
        "partitions": "gpu,batch",
        "qos": "high",
        "constraints": "gpu&hbm80g",
        "reservations": "maintenance",
        "nodes": 2,
        "ntasks": 2,
        "ntasks_per_node": 1,
        "cpus_per_task": 8,
        "gres_per_node": "gpu:4",
        "memory_per_node": "512000M",
        "resource_sharing": "exclusive",
        "is_requeueable": True,
        "time_limit": 120,
        "signal": {"signal": 10, "time": 120, "batch_only": True},
        "log_files_open_mode": "append",
        "working_directory": "/scratch/a dir",
        "standard_output": "/scratch/#1/pilot=1.log",
    }


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("-N 2 -n 8", {"nodes": 2, "ntasks": 8}),
        ("-N2 -n8", {"nodes": 2, "ntasks": 8}),
        ("--nodes 1-3", {"nodes": "1-3", "ntasks": 1}),
        ("--nodes 2-3 --ntasks-per-node 4", {"nodes": "2-3", "ntasks": 8, "ntasks_per_node": 4}),
        ("-t 90", {"time_limit": 90}),
        ("-t 90:01", {"time_limit": 91}),
        ("-t 0", {"time_limit": "UNLIMITED"}),
        ("-t 0:30:00", {"time_limit": 30}),
        ("-t 1-0", {"time_limit": 1440}),
        ("-t 1-2:30", {"time_limit": 1590}),
        ("-t 1-02:30:01", {"time_limit": 1591}),
        ("-t infinite", {"time_limit": "UNLIMITED"}),
        ("--signal=10@60", {"signal": {"signal": 10, "time": 60}}),
        ("--signal=SIGTERM", {"signal": {"signal": 15, "time": 60}}),
        ("--signal=RB:usr2@5", {"signal": {"signal": 12, "time": 5, "batch_only": 1, "allow_reservation_overlap": 1}}),
        ("--gres=gpu:a100:4", {"gres_per_node": "gpu:a100:4"}),
        ("--gpus-per-node=a100:4 --gres=nvme:1", {"gres_per_node": "gpu:a100:4,nvme:1"}),
        ("--gpus=2", {"gpus": 2}),
        ("--exclusive=user", {"resource_sharing": "user"}),
        ("--exclusive --no-requeue", {"resource_sharing": "exclusive", "is_requeueable": False}),
        ("--requeue --no-kill", {"is_requeueable": True, "kill_on_node_fail": False}),
        ("-L cfs,scratch", {"licenses": "cfs,scratch"}),
        ("-q a --qos=b", {"qos": "b"}),
        ("-q a # the quick one", {"qos": "a"}),
        ("--comment='two words'", {"comment": "two words"}),
        ("--output=/a/b#c", {"standard_output": "/a/b#c"}),
    ],
)
def test_an_option_as_sbatch_reads_it(line: str, found: dict[str, object]) -> None:
    assert fields(line) == {"name": "sbatch", "ntasks": 1, **found}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--hint=nomultithread", "--hint=nomultithread cannot be given to pyslurm"),
        ("--core-spec 0", "--core-spec cannot be given"),
        ("--exclusive --spread-job", "--spread-job cannot be given"),
        ("-Z", "option -Z cannot be given"),
        ("stray", "--stray cannot be given"),
        ("--time=soon", "--time=soon: expected minutes"),
        ("--nodes=few", "--nodes=few: expected a number"),
        ("--ntasks=two", "--ntasks=two: invalid literal"),
        ("--signal=B:NOISE@5", "there is no signal NOISE"),
        ("--signal=@5", "expected [B:]SIGNAL"),
        ("--mem=0", "drops a 0"),
        ("--account=", "--account= cannot be given"),
        ("--comment='open", "No closing quotation"),
    ],
)
def test_an_option_that_would_be_lost_refuses_the_job(line: str, said: str) -> None:
    with pytest.raises(JobRefused) as caught:
        fields(line)
    assert said in caught.value.message


@pytest.mark.parametrize("script", OF_SITES, ids=lambda path: path.stem)
def test_the_job_script_of_each_shipped_site(script: Path) -> None:
    found = description(script.read_text(), {}, own=OWN)
    assert found["name"] == "hpcserve-ada-p1"
    assert found["time_limit"] == 60
    assert found["working_directory"] == "/lustre/a b"
    assert found["standard_output"] == "/lustre/a b/100%%j.log"
    assert found["ntasks"] == 1


def test_options_end_at_the_first_command() -> None:
    script = "#!/bin/sh\n# a word\n\n#SBATCH --qos=a\n ##SBATCH --qos=b\ntrue\n#SBATCH --qos=c\n"
    assert list(options(script.replace(" ##", "##"))) == [("qos", "a")]


@pytest.mark.parametrize(
    ("export", "found"),
    [
        ("ALL", {"HOME": "/h", "TZ": "UTC"}),
        ("NONE", {"SLURM_GET_USER_ENV": "1"}),
        ("NIL", {}),
        ("TZ", {"TZ": "UTC", "SLURM_GET_USER_ENV": "1"}),
        ("TZ,A=1=2,GONE", {"TZ": "UTC", "A": "1=2", "SLURM_GET_USER_ENV": "1"}),
        ("ALL,A=1,TZ=CET", {"A": "1", "HOME": "/h", "TZ": "UTC"}),
    ],
)
def test_what_a_job_inherits(export: str, found: dict[str, str]) -> None:
    assert exported(export, {"HOME": "/h", "TZ": "UTC"}) == found


def test_no_environment_is_empty() -> None:
    found = description("#!/bin/sh\n#SBATCH --export=NIL\ntrue\n", {"PATH": "/bin"}, own=OWN)
    assert found["environment"] == OWN


@given(st.text(alphabet="-=#'\"\\ :@,SBATCHnodestime0129", max_size=60))
def test_any_line_gives_fields_or_a_refusal(line: str) -> None:
    try:
        found = description(f"#!/bin/sh\n#SBATCH {line}\ntrue\n", {}, own=OWN)
    except JobRefused:
        return
    assert isinstance(found["ntasks"], int)
