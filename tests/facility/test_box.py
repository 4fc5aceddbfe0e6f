"""The box is a Slurm as sites have it, and leaves no trace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.errors import BoxError
from tests.facility.box.files import LOGIN, PROJECT, address_of
from tests.facility.box.host import until
from tests.facility.box.options import ACCOUNT, DEBUG_LIMIT_MIN, TINY_QOS, Options

pytestmark = pytest.mark.facility

SLURMD_PORT = 6818
SIZED = "small"
SIZED_MIB = 2


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(sized_mib={SIZED: SIZED_MIB})


@pytest.fixture(autouse=True)
def _idle(box: Box) -> None:
    box.run(LOGIN, ["scancel", "--user=root"])
    box.wait_idle(60)


def submit(box: Box, script: str, *options: str) -> str:
    """The id of a job that runs ``script``, whose output goes to the box's directory."""
    output = f"--output={box.directory}/%j.out"
    return box.run(LOGIN, ["sbatch", "--parsable", output, *options, f"--wrap={script}"]).stdout.strip()


def field(box: Box, job: str, name: str) -> str:
    """What ``scontrol`` says of the job, of what it calls by this name."""
    told = box.run(LOGIN, ["scontrol", "show", "job", job, "--oneliner"]).stdout
    return dict(pair.partition("=")[::2] for pair in told.split())[name]


def state(box: Box, job: str) -> str:
    return field(box, job, "JobState")


def in_state(box: Box, job: str, *states: str) -> Callable[[], bool]:
    return lambda: state(box, job) in states


def output(box: Box, job: str) -> str:
    return (box.directory / f"{job}.out").read_text()


def refusal(box: Box, *options: str) -> str:
    """What sbatch says of a job that it does not take."""
    refused = box.run(LOGIN, ["sbatch", *options, "--wrap=true"], check=False)
    assert refused.returncode != 0
    return refused.stderr


def processes(box: Box, node: str) -> str:
    """The command lines of all processes that a node knows."""
    return box.run(node, ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"], check=False).stdout


def sleeps_on(box: Box, node: str) -> bool:
    return "sleep 300" in processes(box, node)


def reaches_slurmd(box: Box, node: str) -> bool:
    """Whether a connection is made from the login node within a second."""
    address = address_of(node)
    with box.enter_network():
        try:
            socket.create_connection((address, SLURMD_PORT), timeout=1).close()
        except OSError:
            return False
    return True


def of_box(directory: Path) -> list[int]:
    """Processes of this machine that name a box's directory on their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(directory).encode() in place.read_bytes():
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


def test_each_of_four_nodes_is_a_host_of_its_own_that_runs_jobs(box: Box) -> None:
    nodes = [f"node{index}" for index in range(1, 5)]
    names = box.run(LOGIN, ["srun", "--nodes=4", "hostname"]).stdout.split()
    assert sorted(names) == nodes
    addresses = {box.run(node, ["hostname", "--all-ip-addresses"]).stdout.strip() for node in nodes}
    assert len(addresses) == 4
    everyone = processes(box, "node2")
    assert "slurmd -D -N node2" in everyone
    assert "slurmctld" not in everyone


def test_a_job_of_two_nodes_starts_its_steps_on_both(box: Box) -> None:
    job = submit(box, "srun hostname", "--nodes=2", "--exclusive")
    until(in_state(box, job, "COMPLETED"), "the job ends")
    assert len(set(output(box, job).split())) == 2


def test_only_two_nodes_have_gpus_and_a_job_sees_those_that_it_asked_for(box: Box) -> None:
    gpus = dict(
        line.split() for line in box.run(LOGIN, ["sinfo", "-hN", "-p", "batch", "-o", "%n %G"]).stdout.splitlines()
    )
    assert [gpus[f"node{index}"] for index in range(1, 5)] == ["gpu:fake:2", "gpu:fake:2", "(null)", "(null)"]
    ask = ["srun", "--partition=gpu", "--gpus-per-node=1", "sh", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES"]
    assert box.run(LOGIN, ask).stdout.split() in (["node1", "0"], ["node2", "0"])


def test_power_loss_ends_one_job_and_requeues_another(box: Box) -> None:
    ended = submit(box, "exec sleep 300", "--nodelist=node4", "--no-requeue")
    requeued = submit(box, "exec sleep 300", "--nodelist=node4", "--requeue")
    for job in (ended, requeued):
        until(in_state(box, job, "RUNNING"), "the jobs run")
    box.power_off("node4")
    with pytest.raises(BoxError, match="node4 is off"):
        box.run("node4", ["true"])
    until(in_state(box, ended, "NODE_FAIL"), "the job ends")
    until(lambda: field(box, requeued, "Restarts") == "1", "the other one is in the queue again")
    assert state(box, requeued) == "PENDING"
    box.power_on("node4")
    until(in_state(box, requeued, "RUNNING"), "it begins anew")


def test_a_step_goes_on_when_another_node_of_its_job_is_lost(box: Box) -> None:
    script = "srun --no-kill --ntasks=1 --nodes=1 --nodelist=node3 sleep 300 & exec sleep 300"
    job = submit(box, script, "--nodelist=node3,node4", "--nodes=2", "--no-kill")
    until(in_state(box, job, "RUNNING"), "the job runs")
    box.power_off("node4")
    until(lambda: "DOWN" in box.run(LOGIN, ["scontrol", "show", "node", "node4"]).stdout, "the node is down")
    assert state(box, job) == "RUNNING"
    assert sleeps_on(box, "node3")
    box.power_on("node4")


def test_a_node_whose_cable_is_out_goes_on_and_comes_back(box: Box) -> None:
    job = submit(box, "exec sleep 300", "--nodelist=node3")
    until(in_state(box, job, "RUNNING"), "the job runs")
    until(lambda: sleeps_on(box, "node3"), "its script runs")
    assert reaches_slurmd(box, "node3")
    box.cut("node3")
    assert not reaches_slurmd(box, "node3")
    assert sleeps_on(box, "node3")
    box.mend("node3")
    until(lambda: reaches_slurmd(box, "node3"), "it is back")
    assert state(box, job) == "RUNNING"


def test_preemption_requeues_what_has_the_lower_priority(box: Box) -> None:
    lower = submit(box, "exec sleep 300", "--partition=preempt", "--nodes=4", "--exclusive")
    until(in_state(box, lower, "RUNNING"), "it runs")
    submit(box, "exec sleep 300", "--nodes=1", "--exclusive")
    until(lambda: field(box, lower, "Restarts") == "1", "it has made room")


def test_account_qos_and_limits_are_enforced(box: Box) -> None:
    assert "Invalid account" in refusal(box, "--account=nobody")
    assert "Invalid qos" in refusal(box, "--qos=nonesuch")
    assert "invalid partition" in refusal(box, "--partition=nonesuch")
    job = submit(box, "exec sleep 300", f"--qos={TINY_QOS}")
    assert field(box, job, "Account") == ACCOUNT
    assert "QOSMaxSubmitJobPerUserLimit" in refusal(box, f"--qos={TINY_QOS}")
    too_long = submit(box, "true", "--partition=debug", f"--time={DEBUG_LIMIT_MIN + 1}")
    until(lambda: field(box, too_long, "Reason") == "PartitionTimeLimit", "it waits for a longer limit")


def test_too_much_memory_is_the_end_of_a_job(box: Box) -> None:
    eat = f"{sys.executable} -c 'x = b\"x\" * (300 << 20); import time; time.sleep(300)'"
    job = submit(box, eat, "--mem=100")
    until(in_state(box, job, "OUT_OF_MEMORY", "CANCELLED", "FAILED"), "it ends")
    assert "xceeded" in output(box, job), (state(box, job), output(box, job))


def test_slurmctld_dies_freezes_and_comes_back_with_its_jobs(box: Box) -> None:
    job = submit(box, "exec sleep 300")
    until(in_state(box, job, "RUNNING"), "it runs")
    box.wait_saved(job)
    box.kill_slurmctld()
    assert box.run(LOGIN, ["scontrol", "ping"], check=False).stdout.startswith("Slurmctld(primary) at login is DOWN")
    box.start_slurmctld()
    assert state(box, job) == "RUNNING"
    box.freeze_slurmctld()
    with pytest.raises(subprocess.TimeoutExpired):
        box.run(LOGIN, ["squeue"], timeout_s=0.5)
    box.thaw_slurmctld()
    assert state(box, job) == "RUNNING"


def test_the_accounting_goes_and_comes_back(box: Box) -> None:
    box.stop_slurmdbd()
    assert box.run(LOGIN, ["sacct"], check=False).returncode != 0
    job = submit(box, "true")
    until(in_state(box, job, "COMPLETED"), "a job runs without")
    box.start_slurmdbd()
    ask = ["sacct", "-nXj", job, "--format=State"]
    until(lambda: box.run(LOGIN, ask).stdout.strip() == "COMPLETED", "the accounting has heard of it")


def test_a_job_is_suspended_and_resumed(box: Box) -> None:
    job = submit(box, "exec sleep 300")
    until(in_state(box, job, "RUNNING"), "it runs")
    box.run(LOGIN, ["scontrol", "suspend", job])
    assert state(box, job) == "SUSPENDED"
    box.run(LOGIN, ["scontrol", "resume", job])
    assert state(box, job) == "RUNNING"


def test_a_partition_that_is_down_starts_nothing(box: Box) -> None:
    box.partition_down("debug")
    job = submit(box, "true", "--partition=debug")
    until(lambda: field(box, job, "Reason") == "PartitionDown", "it says why it waits")
    box.partition_up("debug")
    until(in_state(box, job, "COMPLETED"), "it runs")


def test_the_clock_of_a_nodes_jobs_can_be_wrong_by_five_minutes(box: Box) -> None:
    clock = f'{sys.executable} -c "import time; print(int(time.time()))"'
    script = f"srun --nodes=2 --ntasks-per-node=1 sh -c 'echo $(hostname) $({clock})'"
    box.skew_clock("node2", 300)
    job = submit(box, script, "--nodelist=node1,node2", "--nodes=2")
    until(in_state(box, job, "COMPLETED"), "it ends")
    box.skew_clock("node2", 0)
    told = dict(line.split() for line in output(box, job).splitlines())
    assert 295 <= int(told["node2"]) - int(told["node1"]) <= 305


def test_a_directory_of_limited_size_is_full_for_all_nodes(box: Box) -> None:
    fill = ["dd", "if=/dev/zero", f"of={box.directory}/{SIZED}/fill", "bs=1M", f"count={SIZED_MIB + 1}"]
    assert "No space left" in box.run("node1", fill, check=False).stderr
    seen = box.seen(box.directory / SIZED / "fill")
    assert seen.stat().st_size == SIZED_MIB << 20
    assert box.run(LOGIN, ["stat", "--format=%s", f"{box.directory}/{SIZED}/fill"]).stdout.strip() == str(
        SIZED_MIB << 20
    )
    seen.unlink()


def test_a_thread_of_the_tests_is_on_the_login_nodes_network(box: Box) -> None:
    outside = socket.gethostname()
    names: list[str] = []
    with box.enter_network():
        thread = threading.Thread(target=lambda: names.append(socket.gethostname()))
        thread.start()
        thread.join()
    assert names == [LOGIN]
    assert reaches_slurmd(box, "node1")
    assert socket.gethostname() == outside


def test_signals_and_exit_codes_are_the_commands_own(box: Box) -> None:
    assert box.run("node1", ["sh", "-c", "exit 7"], check=False).returncode == 7
    process = box.spawn("node1", ["sleep", "300"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


BY_HAND = """
power-off; power-on nodeX; power-on node1
power-off node1 && power-off node1
until sinfo --noheader --nodes=node1 --format=%T | grep -q down; do sleep 0.1; done
power-on node1
until test "$(sinfo --noheader --partition=batch --format='%t %D')" = "idle 2"; do sleep 0.1; done
srun --nodelist=node1 hostname
"""


@pytest.mark.usefixtures("able_machine")
def test_power_is_taken_and_given_by_hand_too(short_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.facility.box", "--nodes", "2", "--", "sh", "-c", BY_HAND],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(short_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    _, *told = done.stderr.splitlines()
    assert [line.rpartition(":")[2].strip() for line in told[:2]] == ["node1, node2"] * 2
    assert told[0].startswith("usage: power-off NODE: ")
    assert told[1].startswith("usage: power-on NODE: ")
    assert told[2:] == [
        "power-on: node1 is on already",
        "power-off: node1 is off already; power-on node1 brings it back",
    ]
    assert done.stdout == "node1\n"
    assert not list(short_path.glob("hpcserve-box-*"))


def test_a_lost_node_says_nothing_on_the_standard_error_of_whom_it_belongs_to(
    box: Box, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # what booted before the test began writes elsewhere
        box.power_off("node1")
        box.power_on("node1")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory in which a box's Unix sockets have room for their names."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("able_machine")
def test_nothing_is_left_of_a_box_whose_starter_is_ended(short_path: Path, number: signal.Signals) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    links = os.listdir("/sys/class/net")
    runs = short_path / "runs"
    starter = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.facility.box",
            "--nodes",
            "2",
            "--",
            "sh",
            "-c",
            "touch $0; exec sleep 300",
            runs,
        ],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(short_path)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until(runs.exists, "the command runs in the box")
    if number == signal.SIGINT:
        os.killpg(starter.pid, number)  # as a terminal does
    else:
        starter.send_signal(number)
    starter.wait(100)
    until(lambda: not list(short_path.glob("hpcserve-box-*")), "its directory is gone")
    until(lambda: not of_box(short_path), "its processes are gone")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert os.listdir("/sys/class/net") == links
