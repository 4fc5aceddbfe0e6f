"""The job script: what stands in it for each site, how it is quoted, what is refused, and that bash runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.cluster.runner import cleaned
from hpcserve.cluster.script import (
    SETUP_FAILED,
    begins,
    command_environment,
    job_environment,
    job_script,
)
from hpcserve.cluster.slurm_options import walltime, warning_s
from hpcserve.config import Pilots, Site, read_site
from hpcserve.errors import ConfigError
from tests.unit.cluster.pilot_jobs import made_up

EXPECTED = Path(__file__).resolve().parents[2] / "data" / "jobscripts"
SLURM_SITES = ("slurm", "facility", "perlmutter", "frontier", "delta")


def slurm_site(**pilots: Any) -> Site:
    site = msgspec.structs.replace(read_site("local"), name="lab", scheduler=read_site("slurm").scheduler)
    return msgspec.structs.replace(site, pilots=Pilots(**pilots))


def options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def run(script: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a job script as slurmd does; its output is what stands beside the line by which it says so."""
    file = tmp_path / "script.sh"
    file.write_text(script)
    given = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURMD_NODENAME": "node1", "HOME": str(tmp_path), **environment}
    done = subprocess.run(["/bin/bash", str(file)], env=given, capture_output=True, text=True, timeout=30, check=False)
    before, begun, after = done.stdout.partition(begins(int(environment.get("SLURM_RESTART_COUNT", "0"))) + "\n")
    assert begun
    done.stdout = before + after
    return done


@pytest.mark.parametrize("name", SLURM_SITES)
def test_the_script_of_a_shipped_site(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word as recorded; a change of the template or of a site is to be seen here."""
    monkeypatch.setenv("SCRATCH", "/scratch/ada")
    script = job_script(read_site(name), made_up(), "hpcserve-ada-p1")
    assert script == (EXPECTED / f"{name}.sh").read_text()
    assert subprocess.run(["/bin/bash", "-n"], input=script, text=True, timeout=30, check=False).returncode == 0


def test_all_that_a_site_can_ask_for_stands_in_the_script_and_its_own_options_last() -> None:
    site = slurm_site(
        account="m1_g",
        partition="gpu",
        qos="debug",
        constraint="a100&nvme",
        reservation="r1",
        nodes=2,
        launcher="srun",
        gpus_per_node=4,
        cpus_per_node=8,
        memory_per_node_mib=512,
        exclusive=True,
        requeue=False,
        warn_s=90.5,
        directives=("--gres=craynetwork:0", "-M es"),
    )
    assert options(job_script(site, made_up(), "hpcserve-ada-p1")) == [
        "--job-name=hpcserve-ada-p1",
        "--comment=hpcserve-ada-p1",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--account=m1_g",
        "--partition=gpu",
        "--qos=debug",
        "--constraint='a100&nvme'",
        "--reservation=r1",
        "--gpus-per-node=4",
        "--cpus-per-task=8",
        "--mem=512M",
        "--time=0-01:00:00",
        "--signal=B:USR1@91",
        "--chdir='/lustre/a b'",
        "--output='/lustre/a b/100%%j.log'",
        "--open-mode=append",
        "--exclusive",
        "--no-requeue",
        "--no-kill",
        "--gres=craynetwork:0",
        "-M es",
    ]


def test_a_job_of_which_one_is_to_run_at_a_time_waits_for_others_of_its_name() -> None:
    site = slurm_site()
    assert "--dependency=singleton" in options(job_script(site, made_up(single=True), "x"))


def test_what_a_site_leaves_open_is_left_to_the_cluster() -> None:
    assert {option.partition("=")[0] for option in options(job_script(slurm_site(), made_up(), "x"))} == {
        *("--job-name", "--comment", "--nodes", "--ntasks-per-node", "--time", "--signal", "--chdir", "--output"),
        *("--open-mode", "--requeue"),
    }


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (1.0, "0-00:00:01"),
        (59.2, "0-00:01:00"),
        (3600.0, "0-01:00:00"),
        (90061.0, "1-01:01:01"),
        (8.64e6, "100-00:00:00"),
    ],
)
def test_the_walltime_is_rounded_up(seconds: float, told: str) -> None:
    assert walltime(seconds) == told


@pytest.mark.parametrize(
    ("warn_s", "walltime_s", "told"), [(120.0, 3600.0, 120), (120.0, 60.0, 30), (0.1, 60.0, 1), (1e6, 1e7, 65535)]
)
def test_the_warning_comes_within_the_job(warn_s: float, walltime_s: float, told: int) -> None:
    assert warning_s(slurm_site(warn_s=warn_s), made_up(walltime_s=walltime_s)) == told


@pytest.mark.parametrize(
    ("pilots", "told"),
    [
        (
            {"account": "a\n#SBATCH --uid=0"},
            r"--account of the job script: expected printable text on one line, got 'a\\n",
        ),
        (
            {"directives": ("--gres=x\necho",)},
            r"pilots.directives: expected one option on one line, .* got '--gres=x\\ne",
        ),
        ({"directives": ("rm -rf /",)}, r"pilots.directives: expected one option on one line, .* got 'rm -rf /'"),
        ({"directives": ("--comment='x",)}, r"pilots.directives: No closing quotation in \"--comment='x\"; end it"),
    ],
)
def test_what_would_be_another_line_of_the_script_is_refused(pilots: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        job_script(slurm_site(**pilots), made_up(), "x")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--job-name=foo", r"no -J, --job-name, by which hpcserve finds a pilot's job again; remove it"),
        ("-J foo", r"no -J, --job-name, by which"),
        ("--gres=x -HJfoo", r"no -J, --job-name, by which"),
        ("--job foo", r"no -J, --job-name, by which"),
        ("-o x.out", r"no -o, --output, since `hpcserve logs` shows"),
        ("--error=x.err", r"no -e, --error, since `hpcserve logs` shows"),
        ("--array=0-3", r"no -a, --array, which makes a job array"),
        ("-t 5", r"no -t, --time, since agents are told how long their jobs last; set pilots.walltime_s$"),
        ("--time 99:00:00", r"no -t, --time, since"),
        ("--time-min=5", r"no --time-min, since"),
        ("--wait", r"no -W, --wait, with which sbatch does not answer"),
        ("--test-only", r"no --test-only, with which nothing is submitted"),
    ],
)
def test_what_hpcserve_has_to_have_as_it_is_stands_in_no_directive(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^pilots.directives: expected {told}"):
        job_script(slurm_site(directives=("--nice", line)), made_up(), "x")


@pytest.mark.parametrize(
    "line", ["--comment='-J foo'", "--wait-all-nodes=1", "-C t", "--gres x -C a", "--nice # -J foo", "-A o", "-w t"]
)
def test_an_option_that_looks_like_one_of_hpcserves_is_taken(line: str) -> None:
    assert options(job_script(slurm_site(directives=(line,)), made_up(), "x"))[-1] == line


def test_the_agent_takes_the_place_of_the_script_and_gets_its_arguments_whole(tmp_path: Path) -> None:
    job = made_up(argv=("/bin/sh", "-c", 'echo "$$ $1"; shift; printf "<%s>" "$@"', "sh", "a b", "it's", "$HOME"))
    done = run(f"echo $$\n{job_script(slurm_site(), job, 'x')}", tmp_path, SLURM_RESTART_COUNT="2")
    script, agent, arguments = done.stdout.splitlines()
    assert agent == f"{script} a b"
    assert arguments == "<it's><$HOME><--restart><2><--nodes><node1><--warn-s><120>"


def test_the_nodes_of_a_larger_job_are_named_one_by_one(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-3]" ] && printf "node1\\nnode2\\nnode3\\n"\n')
    scontrol.chmod(0o755)
    script = job_script(slurm_site(nodes=3, launcher="srun"), made_up(argv=("/bin/echo",)), "x")
    done = run(script, tmp_path, SLURM_JOB_NODELIST="node[1-3]")
    assert done.stdout == "--restart 0 --nodes node1,node2,node3 --warn-s 120\n"
    failed = run(script, tmp_path, SLURM_JOB_NODELIST="node[7-9]")
    assert (failed.returncode, failed.stdout) == (SETUP_FAILED, "")
    assert failed.stderr == "hpcserve: scontrol does not tell the names of the nodes node[7-9]\n"


def test_setup_runs_before_the_agent_in_its_shell(tmp_path: Path) -> None:
    setup = ("X='a b'; export X", 'test -n "$X" && cd /', "export Y=${NOT_SET:-none}")
    job = made_up(argv=("/bin/sh", "-c", 'echo "$X" "$Y" "$PWD"'))
    assert run(job_script(slurm_site(setup=setup), job, "x"), tmp_path).stdout == "a b none /\n"


def test_a_setup_command_that_fails_ends_the_job_and_is_named(tmp_path: Path) -> None:
    script = job_script(slurm_site(setup=("true", "(exit 7)", "echo later")), made_up(argv=("/bin/echo",)), "x")
    done = run(script, tmp_path)
    assert (done.returncode, done.stdout) == (SETUP_FAILED, "")
    assert done.stderr == "hpcserve: a setup command of site lab failed with exit code 7: (exit 7)\n"


def test_only_a_site_with_setup_has_a_login_shell() -> None:
    """It knows ``module`` and costs time."""
    assert job_script(slurm_site(), made_up(), "x").startswith("#!/bin/bash\n")
    assert job_script(slurm_site(setup=("module load x",)), made_up(), "x").startswith("#!/bin/bash -l\n")


def test_a_site_has_a_template_of_its_own_which_may_extend_the_shipped_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    own = tmp_path / "jobscripts" / "ours.sh.j2"
    own.parent.mkdir()
    own.write_text('{% extends "slurm.sh.j2" %}\n{% block setup %}\n# {{ name }} of ours\n{% endblock %}\n')
    by_name = job_script(slurm_site(script="ours.sh.j2"), made_up(), "p1")
    assert by_name.startswith("#!/bin/bash\n#SBATCH --job-name=p1\n")
    assert "\n# p1 of ours\n" in by_name
    assert job_script(slurm_site(script=str(own)), made_up(), "p1") == by_name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{% if %}", r"ours.sh.j2:1: "),
        ("{{ nothing }}", r"ours.sh.j2: 'nothing' is undefined$"),
        ('{% extends "none.j2" %}', r"ours.sh.j2: none.j2$"),
        ("{{ 1 / 0 }}", r"ours.sh.j2: ZeroDivisionError: division by zero; correct the template$"),
        ("{{ nodes + name }}", r"ours.sh.j2: TypeError: "),
        ("{{ name.index('none') }}", r"ours.sh.j2: ValueError: "),
        (None, r"cannot read the job script template of pilots.script: .*ours.sh.j2"),
    ],
)
def test_a_wrong_template_is_told_with_its_place(tmp_path: Path, text: str | None, told: str) -> None:
    own = tmp_path / "ours.sh.j2"
    if text is not None:
        own.write_text(text)
    with pytest.raises(ConfigError, match=told):
        job_script(slurm_site(script=str(own)), made_up(), "x")


def test_a_scheduler_without_a_template_is_told() -> None:
    with pytest.raises(ConfigError, match="site 'local' has no job script, as its scheduler is 'local'"):
        job_script(read_site("local"), made_up(), "x")


def test_no_secret_and_no_option_comes_along_in_the_environment() -> None:
    kept = {"PATH": "/bin", "HOME": "/h", "LC_CTYPE": "C", "SLURM_CONF": "/s", "LMOD_DIR": "/l", "MODULEPATH": "/m"}
    dropped = {"API_TOKEN": "x", "SBATCH_PARTITION": "x", "SLURM_JOB_ID": "1", "HPCSERVE_SITE": "x", "MYPATH": "x"}
    assert job_environment({**kept, **dropped}) == kept
    assert command_environment({**kept, **dropped}) == kept


def test_pbss_commands_know_where_it_is_and_no_job_has_that() -> None:
    login = {"PATH": "/bin", "PBS_SERVER": "pbs2", "PBS_CONF_FILE": "/x", "PBS_EXEC": "/y", "PBS_DEFAULT": "pbs2"}
    login |= {"PBS_PRIMARY": "pbs2", "PBS_SECONDARY": "pbs3"}
    assert cleaned(command_environment(login | {"PBS_JOBID": "1.pbs", "PBS_DPREFIX": "#X"})) == login
    assert job_environment(login) == {"PATH": "/bin"}


def test_slurms_commands_have_the_users_token_and_no_job_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    login = {"PATH": "/bin", "SLURM_JWT": "secret"}
    assert cleaned(command_environment(login)) == login
    assert job_environment(login) == {"PATH": "/bin"}
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    own = tmp_path / "jobscripts" / "ours.sh.j2"
    own.parent.mkdir()
    own.write_text('{% extends "slurm.sh.j2" %}\n{% block setup %}\necho "<${SLURM_JWT-none}>"\n{% endblock %}\n')
    agent = made_up(argv=("/bin/sh", "-c", 'echo "<${SLURM_JWT-none}>"'))
    for site in (slurm_site(setup=('echo "<${SLURM_JWT-none}>"',)), slurm_site(script="ours.sh.j2")):
        assert run(job_script(site, agent, "x"), tmp_path, SLURM_JWT="secret").stdout == "<none>\n<none>\n"
