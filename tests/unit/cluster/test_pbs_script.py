"""The job script for PBS: what stands in it for each site, what is refused, and what bash does with it in a job.

A job is as the recorded server and qsub(1B) have it: it begins in the home directory with umask 077, its standard
output is a file that PBS hands over later, and qstat answers as recorded.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.cluster import pbs_shell
from hpcserve.cluster.pbs import PbsScheduler
from hpcserve.cluster.pbs_options import walltime
from hpcserve.cluster.script import SETUP_FAILED, begins, job_script
from hpcserve.cluster.seam import JobId, PilotJob, own_log
from hpcserve.config import Pilots, Site, read_site
from hpcserve.errors import ConfigError, SchedulerError
from tests.unit.cluster.pbs_stage import FakePbs
from tests.unit.cluster.pilot_jobs import made_up

DATA = Path(__file__).resolve().parents[2] / "data"
SITES = ("pbs", "polaris", "aurora")
TIMER = ("--walltime-s", "3600", "--warn-s", "120")
RUNNING = json.loads((DATA / "openpbs-23.06" / "qstat_running.json").read_text())["stdout"]
SAYS_ALL = ("/bin/sh", "-c", 'printf "%s\\n" "$PWD" "$$" "$@"', "sh")


def pbs_site(**pilots: Any) -> Site:
    site = msgspec.structs.replace(read_site("local"), name="lab", scheduler=read_site("pbs").scheduler)
    return msgspec.structs.replace(site, pilots=Pilots(**pilots))


def options(script: str) -> list[str]:
    return [line.removeprefix("#PBS ") for line in script.splitlines() if line.startswith("#PBS ")]


@dataclass
class Node:
    """Where a job runs, and what came of it.

    Attributes:
        tmp_path: Holds the home directory, the shared one and a place for qstat.
        exit_code: Of the last job.
        output: What PBS would hand over of it.
    """

    tmp_path: Path
    exit_code: int = 0
    output: str = ""

    def __post_init__(self) -> None:
        for name in ("home", "a b", "pbs/bin"):
            (self.tmp_path / name).mkdir(parents=True)

    @property
    def shared(self) -> Path:
        return self.tmp_path / "a b"

    @property
    def log(self) -> str:
        return (self.shared / "p1.log").read_text()

    def job(self, *argv: str) -> PilotJob:
        return made_up(argv=argv, directory=self.shared, log=self.shared / "p1.log")

    def qstat_says(self, answer: str, exit_code: int = 0) -> None:
        """An executable that says so of the job, and nothing of others."""
        (self.tmp_path / "answer").write_text(answer)
        qstat = self.tmp_path / "pbs" / "bin" / "qstat"
        asked = '[ "$*" = "-f -F json 2.pbs" ] || exit 153'
        qstat.write_text(f"#!/bin/sh\n{asked}\ncat '{self.tmp_path}/answer'\nexit {exit_code}\n")
        qstat.chmod(0o755)

    def run(self, script: str, *, nodes: str = "node1\n", **more: str) -> None:
        file, nodefile = self.tmp_path / "2.pbs.SC", self.tmp_path / "nodes"
        file.write_text(script)
        nodefile.write_text(nodes)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.tmp_path / "home"),
            "PBS_EXEC": str(self.tmp_path / "pbs"),
            "PBS_JOBID": "2.pbs",
            "PBS_NODEFILE": str(nodefile),
            "TMPDIR": str(self.tmp_path),
            **more,
        }
        with (self.tmp_path / "output").open("w") as output:
            self.exit_code = subprocess.run(
                ["/bin/bash", str(file)],
                env=environment,
                cwd=self.tmp_path / "home",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                umask=0o077,
                timeout=60,
                check=False,
            ).returncode
        self.output = (self.tmp_path / "output").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.qstat_says(RUNNING)
    return made


@pytest.mark.parametrize("name", SITES)
def test_the_script_of_a_shipped_site(name: str) -> None:
    """Word for word as recorded; a change of the template or of a site is to be seen here."""
    script = job_script(read_site(name), made_up(), "hpcserve-ada-p1")
    assert script == (DATA / "jobscripts" / f"{name}.sh").read_text()
    assert subprocess.run(["/bin/bash", "-n"], input=script, text=True, timeout=60, check=False).returncode == 0


def test_all_that_a_site_can_ask_for_stands_in_the_script_and_its_own_options_last() -> None:
    site = pbs_site(
        account="m1",
        partition="gpu",
        constraint="system=polaris",
        nodes=2,
        launcher="mpiexec",
        gpus_per_node=4,
        cpus_per_node=64,
        memory_per_node_mib=512,
        exclusive=True,
        requeue=False,
        directives=("-l filesystems=home:eagle", "-k doe"),
    )
    assert options(job_script(site, made_up(), "hpcserve-ada-p1")) == [
        "-N hpcserve-ada-p1",
        "-S '/lustre/a b/pbs-shell'",
        "-A m1",
        "-q gpu",
        "-l select=2:ncpus=64:ngpus=4:mem=512mb:system=polaris",
        "-l place=scatter:excl",
        "-l walltime=01:00:00",
        "-o '/lustre/a b/100%j.log.scheduler'",
        "-j oe",
        "-r n",
        "-l filesystems=home:eagle",
        "-k doe",
    ]


def test_what_a_site_leaves_open_is_left_to_the_cluster() -> None:
    assert options(job_script(pbs_site(), made_up(nodes=3), "x")) == [
        "-N x",
        "-S '/lustre/a b/pbs-shell'",
        "-l select=3",
        "-l place=scatter",
        "-l walltime=01:00:00",
        "-o '/lustre/a b/100%j.log.scheduler'",
        "-j oe",
        "-r y",
    ]


def test_a_job_that_comes_after_others_waits_for_their_end() -> None:
    script = job_script(pbs_site(), made_up(), "x", (JobId("1.pbs"), JobId("2.pbs")))
    assert options(script)[-1] == "-W depend=afterany:1.pbs:2.pbs"


def test_a_reservation_is_a_queue() -> None:
    assert "-q R123" in options(job_script(pbs_site(reservation="R123"), made_up(), "x"))


@pytest.mark.parametrize(("walltime_s", "warn_s"), [(3600.0, 120), (240.0, 120), (60.0, 30), (59.0, 30)])
def test_the_warning_comes_half_of_the_walltime_before_its_end_at_most(walltime_s: float, warn_s: int) -> None:
    script = job_script(pbs_site(warn_s=120.0), made_up(walltime_s=walltime_s), "x")
    assert f"--walltime-s {walltime_s:g} --warn-s {warn_s}\n" in script


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(1.0, "00:00:01"), (59.2, "00:01:00"), (3600.0, "01:00:00"), (90061.0, "25:01:01"), (8.64e6, "2400:00:00")],
)
def test_the_walltime_is_rounded_up_and_has_no_days(seconds: float, told: str) -> None:
    assert walltime(seconds) == told


def test_the_agent_counts_no_less_than_what_is_asked_for() -> None:
    script = job_script(pbs_site(), made_up(walltime_s=59.2), "x")
    assert "-l walltime=00:01:00" in options(script)
    assert "--walltime-s 60 " in script


@pytest.mark.parametrize(
    ("pilots", "told"),
    [
        ({"account": "a\n#PBS -q x"}, r"-A of the job script: expected printable text on one line, got 'a\\n#PBS"),
        ({"directives": ("-k doe\necho",)}, r"expected one option on one line, such as '-l filesystems=home', got "),
        ({"directives": ("rm -rf /",)}, r"pilots.directives: expected one option on one line, .* got 'rm -rf /'"),
        ({"directives": ("-J 1-2",)}, r"pilots.directives: expected no -J, which makes a job array"),
        ({"directives": ("-k doe -J1-2",)}, r"pilots.directives: expected no -J, which makes a job array"),
        ({"directives": ("-q other",)}, r"pilots.directives: expected no -q, which overrules pilots.partition, .*"),
        ({"directives": ("-l select=3:ncpus=1",)}, r"pilots.directives: expected no -l select=, which overrules .*"),
        ({"directives": ("-l filesystems=home,place=pack",)}, r"pilots.directives: expected no -l place=, which .*"),
        ({"directives": ("-N foo",)}, r"pilots.directives: expected no -N, by which hpcserve finds .*; remove it"),
        ({"directives": ("-l a=b", "-VNfoo")}, r"pilots.directives: expected no -N, by which"),
        ({"directives": ("-o /tmp/x",)}, r"pilots.directives: expected no -o, since `hpcserve logs` shows"),
        ({"directives": ("-e /tmp/x",)}, r"pilots.directives: expected no -e, since `hpcserve logs` shows"),
        ({"directives": ("-z",)}, r"pilots.directives: expected no -z, with which qsub does not tell a job's id"),
        ({"directives": ("-W umask=22,block=true",)}, r"pilots.directives: expected no -W block, with which qsub"),
        ({"directives": ("-l walltime=00:00:30",)}, r"expected no -l walltime, since .*; set pilots.walltime_s$"),
        ({"directives": ("-lfilesystems=home,walltime=99:0:0",)}, r"expected no -l walltime, .*pilots.walltime_s$"),
        ({"directives": ("-l min_walltime=60",)}, r"expected no -l walltime, .*pilots.walltime_s$"),
        ({"directives": ("-l ncpus=4",)}, r"expected no -l ncpus=, which PBS takes from no job with a -l select, as "),
        ({"directives": ("-v A='b",)}, r"pilots.directives: No closing quotation in \"-v A='b\"; end it, or leave"),
        ({"qos": "debug"}, r"pilots.qos: expected none, since PBS has queues alone, got 'debug'; leave it empty"),
        ({"reservation": "R1", "partition": "q"}, r"pilots.reservation: a reservation of PBS is a queue, .*'q'; leave"),
        ({"launcher": "srun"}, r"pilots.launcher: expected 'mpiexec' or 'process', got 'srun', which is Slurm's"),
    ],
)
def test_what_pbs_does_not_have_or_would_be_another_line_is_refused(pilots: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        job_script(pbs_site(**pilots), made_up(), "x")


@pytest.mark.parametrize(
    "line", ["-v NAME='-N foo'", "-M o@e.org", "-l filesystems=home:mem", "-v walltime=5", "-W umask=22", "-P N"]
)
def test_an_option_that_looks_like_one_of_hpcserves_is_taken(line: str) -> None:
    assert options(job_script(pbs_site(directives=(line,)), made_up(), "x"))[-1] == line


def test_a_site_may_have_a_shell_of_its_own_to_lead_its_jobs() -> None:
    script = job_script(pbs_site(directives=("-S /bin/zsh",)), made_up(), "x")
    assert [line for line in options(script) if line.startswith("-S")] == ["-S /bin/zsh"]


@pytest.mark.parametrize("name", ["a@b", "a,b"])
def test_a_directory_that_pbs_would_take_for_two_shells_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"-S of the job script: expected a path without '@' and ','.*set shared_dir"):
        job_script(pbs_site(), made_up(directory=Path("/lustre") / name), "x")


def test_the_shell_that_leads_hands_over_the_jobs_script_and_heeds_no_sigterm(node: Node) -> None:
    """As MoM runs it: as a login shell, which reads the path of the script from its standard input."""
    pbs_shell.lay_down(node.shared)
    shell = pbs_shell.path(node.shared)
    assert shell.stat().st_mode & 0o777 == 0o755
    written = shell.stat().st_ino
    pbs_shell.lay_down(node.shared)
    assert shell.stat().st_ino == written, "what is there is left alone"
    script = node.tmp_path / "2.pbs.SC"
    script.write_text("#!/bin/bash\nkill -TERM $PPID $$\nshopt -q login_shell; echo $?\nexit 7\n")
    script.chmod(0o700)
    home = {"HOME": str(node.tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["-pbs-shell"],
        executable=shell,
        input=f"{script}\n",
        env=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "1\n", "")


def test_daemons_that_write_the_shell_at_one_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    for number in range(40):
        place = tmp_path / str(number)
        place.mkdir()
        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(pbs_shell.lay_down, place) for _ in range(8)]:
                done.result()
        assert [path.name for path in place.iterdir()] == ["pbs-shell"], "no draft is left"


@pytest.mark.parametrize("directives", [(), ("-S /bin/bash",)])
@pytest.mark.parametrize("single", [False, True])
def test_it_is_written_for_the_jobs_that_name_it(tmp_path: Path, directives: tuple[str, ...], *, single: bool) -> None:
    fake, job = FakePbs(tmp_path), made_up(directory=tmp_path, single=single)
    fake.says("qsub", "1.pbs\n")
    fake.says("qselect")
    asked = PbsScheduler(fake.commands(), user="me", render=partial(job_script, pbs_site(directives=directives)))
    asyncio.run(asked.submit(job))
    assert pbs_shell.path(tmp_path).exists() == (not directives)


def test_a_shell_that_cannot_be_written_is_said(node: Node) -> None:
    pbs_shell.path(node.shared).mkdir()
    with pytest.raises(SchedulerError, match=r"cannot write .*pbs-shell, which leads jobs.*look at shared_dir"):
        pbs_shell.lay_down(node.shared)


def test_a_path_that_pbs_would_take_for_another_hosts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"-o of the job script: expected a path without ':'.*set shared_dir to"):
        job_script(pbs_site(), made_up(log=Path("/lustre/a:b/p1.log")), "x")


def test_the_agent_takes_the_place_of_the_script_and_gets_its_arguments_whole(node: Node) -> None:
    script = job_script(pbs_site(), node.job(*SAYS_ALL, "a b", "it's", "$HOME"), "x")
    node.run(f"echo $$\n{script}")
    begun, place, agent, *arguments = node.log.splitlines()
    assert begun == begins(0)
    assert (place, agent) == (str(node.shared), node.output.strip())
    assert arguments == ["a b", "it's", "$HOME", "--restart", "0", "--nodes", "node1", *TIMER]


def test_what_is_printed_stands_in_the_log_at_once_and_only_its_owner_reads_it(node: Node) -> None:
    node.run(job_script(pbs_site(), node.job("/bin/sh", "-c", "echo out; echo err >&2; exit 7"), "x"))
    assert (node.exit_code, node.log, node.output) == (7, f"{begins(0)}\nout\nerr\n", "")
    assert (node.shared / "p1.log").stat().st_mode & 0o777 == 0o600


def test_each_run_of_a_requeued_job_goes_on_in_the_log_under_its_number(node: Node) -> None:
    script = job_script(pbs_site(), node.job("/bin/echo"), "x")
    node.run(script)
    node.qstat_says(RUNNING.replace('"run_count":\t1,', '"run_count":\t3,'))
    node.run(script)
    first, _, third, arguments = node.log.splitlines()
    assert (first, third, arguments) == (begins(0), begins(2), f"--restart 2 --nodes node1 {' '.join(TIMER)}")


def test_a_variable_that_looks_like_a_count_is_none(node: Node) -> None:
    answer = RUNNING.replace('"HPCSERVE_PILOT_ID":\t1,', '"X":\t"a \\"run_count\\": 9,",')
    assert answer != RUNNING
    node.qstat_says(answer)
    node.run(job_script(pbs_site(), node.job("/bin/echo"), "x"))
    assert "--restart 0 " in node.log


@pytest.mark.parametrize("answer", ["", "{\n", RUNNING.replace('"run_count":\t1,', ""), '\t"run_count":\t0,\n'])
def test_where_the_server_does_not_tell_the_runs_in_the_log_are_counted(node: Node, answer: str) -> None:
    script = job_script(pbs_site(), node.job("/bin/echo"), "x")
    node.qstat_says(answer, exit_code=255)
    for number in range(3):
        node.run(script)
        assert node.log.splitlines()[-1] == f"--restart {number} --nodes node1 {' '.join(TIMER)}"


def test_a_node_without_qstat_counts_the_runs_in_the_log(node: Node) -> None:
    (node.tmp_path / "pbs" / "bin" / "qstat").unlink()
    script = job_script(pbs_site(), node.job("/bin/echo"), "x")
    node.run(script)
    node.run(script)
    assert node.log.splitlines()[-1] == f"--restart 1 --nodes node1 {' '.join(TIMER)}"


def test_each_node_is_named_once_the_own_one_first(node: Node) -> None:
    script = job_script(pbs_site(nodes=3, launcher="mpiexec"), node.job("/bin/echo"), "x")
    node.run(script, nodes="x3.hsn.cm\nx3.hsn.cm\nx1.hsn.cm\n\nx2.hsn.cm\n")
    assert node.log.splitlines()[-1] == f"--restart 0 --nodes x3.hsn.cm,x1.hsn.cm,x2.hsn.cm {' '.join(TIMER)}"


@pytest.mark.parametrize("nodefile", ["", "gone", None])
def test_a_job_whose_nodes_nobody_names_says_so(node: Node, nodefile: str | None) -> None:
    script = job_script(pbs_site(), node.job("/bin/echo", "begun"), "x")
    if nodefile is None:
        script = script.replace("set -u\n", "unset PBS_NODEFILE\nset -u\n")
    more = {"PBS_NODEFILE": str(node.tmp_path / nodefile)} if nodefile else {}
    node.run(script, nodes="", **more)
    assert node.exit_code == SETUP_FAILED
    assert node.log.endswith("hpcserve: $PBS_NODEFILE does not tell the names of the nodes\n")
    assert "begun" not in node.log


def test_a_node_that_does_not_see_the_shared_directory_says_so_to_pbs(node: Node) -> None:
    node.shared.rmdir()
    node.run(job_script(pbs_site(), node.job("/bin/echo", "begun"), "x"))
    assert node.exit_code == SETUP_FAILED
    assert node.output.splitlines()[-1].endswith("p1.log: does it see the site's shared_dir?")
    assert "begun" not in node.output


def test_a_directory_of_the_logs_that_was_removed_while_the_job_was_queued_is_made_again(node: Node) -> None:
    logs = node.shared / "it's logs"
    job = made_up(argv=("/bin/echo", "begun"), directory=node.shared, log=logs / "p1.log")
    node.run(job_script(pbs_site(), job, "x"))
    assert (node.exit_code, node.output) == (0, "")
    assert "begun" in (logs / "p1.log").read_text()
    assert logs.stat().st_mode & 0o777 == 0o700


def test_a_log_that_cannot_be_written_ends_the_job(node: Node) -> None:
    (node.shared / "p1.log").mkdir()
    node.run(job_script(pbs_site(), node.job("/bin/echo", "begun"), "x"))
    assert (node.exit_code, "begun" in node.output) == (SETUP_FAILED, False)


def test_setup_runs_before_the_agent_in_its_shell(node: Node) -> None:
    setup = ("X='a b'; export X", 'test -n "$X" && cd /', "export Y=${NOT_SET:-none}")
    node.run(job_script(pbs_site(setup=setup), node.job("/bin/sh", "-c", 'echo "$X" "$Y" "$PWD"'), "x"))
    assert node.log == f"{begins(0)}\na b none /\n"


def test_a_setup_command_that_fails_ends_the_job_and_is_named(node: Node) -> None:
    node.run(job_script(pbs_site(setup=("true", "(exit 7)", "echo later")), node.job("/bin/echo"), "x"))
    assert node.exit_code == SETUP_FAILED
    assert node.log == f"{begins(0)}\nhpcserve: a setup command of site lab failed with exit code 7: (exit 7)\n"


def test_only_a_site_with_setup_has_a_login_shell_of_its_own() -> None:
    """The shell that PBS begins with is one, and hands on no functions such as ``module``."""
    assert job_script(pbs_site(), made_up(), "x").startswith("#!/bin/bash\n")
    assert job_script(pbs_site(setup=("module load x",)), made_up(), "x").startswith("#!/bin/bash -l\n")


def test_a_site_has_a_template_of_its_own_which_extends_the_shipped_one(tmp_path: Path) -> None:
    own = tmp_path / "ours.sh.j2"
    own.write_text('{% extends "pbs.sh.j2" %}\n{% block setup %}\n# {{ name }} of ours\n{% endblock %}\n')
    script = job_script(pbs_site(script=str(own)), made_up(), "p1")
    assert script.startswith("#!/bin/bash\n#PBS -N p1\n")
    assert "\n# p1 of ours\n" in script


def test_what_pbs_says_itself_goes_to_a_file_beside_the_log() -> None:
    assert own_log(Path("/a/p1.log")) == Path("/a/p1.log.scheduler")


def test_a_shell_that_a_job_is_just_reading_is_not_changed_under_it(node: Node) -> None:
    shell = pbs_shell.path(node.shared)
    shell.write_text("#!/bin/sh\n# an older one\n")
    with shell.open() as read:
        pbs_shell.lay_down(node.shared)
        assert read.read() == "#!/bin/sh\n# an older one\n"
    assert "trap '' TERM" in shell.read_text()
    assert list(node.shared.iterdir()) == [shell]


@pytest.mark.parametrize("spoil", ["text", "mode"])
def test_a_shell_that_is_not_as_it_should_be_is_written_anew(node: Node, spoil: str) -> None:
    pbs_shell.lay_down(node.shared)
    shell = pbs_shell.path(node.shared)
    if spoil == "text":
        shell.write_text("#!/bin/sh\n")
    else:
        shell.chmod(0o600)
    pbs_shell.lay_down(node.shared)
    assert "trap '' TERM" in shell.read_text()
    assert shell.stat().st_mode & 0o777 == 0o755
