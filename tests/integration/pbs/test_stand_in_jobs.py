"""The stand-in for PBS runs its jobs as PBS's MoM does, and ends what it has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.daemon_tree import is_alive, until
from tests.integration.pbs.server import PbsServer

NewServer = Callable[..., PbsServer]

ONE = ("-l", "select=1:ncpus=1")


def test_a_job_starts_in_home_with_umask_077_and_pbs_variables(pbs: PbsServer, tmp_path: Path) -> None:
    said = tmp_path / "said"

    name = pbs.submit(
        f'(pwd; umask; cat "$PBS_NODEFILE"; echo "$PBS_JOBID $WANTED $PBS_ENVIRONMENT"; [ -d "$TMPDIR" ]) >{said}',
        *("-l", "select=2:ncpus=1:mpiprocs=2"),
        *("-v", "WANTED=this"),
    )

    pbs.reaches(name, "F")
    host = name.partition(".")[2]
    assert said.read_text().splitlines() == [str(pbs.home), "0077", *[host] * 4, f"{name} this PBS_BATCH"]
    assert said.stat().st_mode & 0o777 == 0o600
    assert pbs.told(name)["Exit_status"] == 0


def test_output_is_there_after_the_end_and_belongs_to_the_user_alone(pbs: PbsServer, tmp_path: Path) -> None:
    name = pbs.submit("echo out; echo err >&2", *ONE, "-j", "oe", "-o", str(tmp_path / "log"))

    pbs.reaches(name, "F")

    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_signal_reaches_the_leading_shell_and_then_the_rest_is_killed(pbs: PbsServer, tmp_path: Path) -> None:
    begun, kind = tmp_path / "begun", tmp_path / "kind"
    # The script itself ignores the signal; the login shell before it does not.
    name = pbs.submit(f"trap '' TERM; echo $$ >{begun}; sleep 300; echo >{kind}", *ONE)
    until(begun.exists, "the script runs", within_s=60)
    pid = int(until(begun.read_text, "it says its pid"))

    assert pbs.run("qdel", name).returncode == 0

    pbs.reaches(name, "F")
    assert not is_alive(pid)
    assert not kind.exists()
    told = pbs.told(name)
    assert (told["Exit_status"], told["substate"]) == (256 + signal.SIGTERM, 91)


def test_a_shell_that_does_not_heed_the_signal_leaves_its_job_the_time_to_end(pbs: PbsServer, tmp_path: Path) -> None:
    begun, kind, shell = tmp_path / "begun", tmp_path / "kind", tmp_path / "shell"
    shell.write_text("#!/bin/bash\ntrap '' TERM\nexec /bin/bash -l\n")
    shell.chmod(0o755)
    hears = f"signal.signal(15, lambda *_: open({str(kind)!r}, 'w').close() or sys.exit(7))"
    program = f"import signal, sys; {hears}; open({str(begun)!r}, 'w'); signal.pause()"
    name = pbs.submit(f'exec {sys.executable} -c "{program}"', *ONE, "-S", str(shell))
    until(begun.exists, "it hears signals", within_s=60)

    assert pbs.run("qdel", name).returncode == 0

    assert pbs.reaches(name, "F")["exit_status"] == 7
    assert kind.exists()
    assert pbs.told(name)["Shell_Path_List"] == str(shell)


def test_what_has_left_the_session_outlives_the_job_until_the_server_is_closed(pbs: PbsServer, tmp_path: Path) -> None:
    left = tmp_path / "left"
    name = pbs.submit(f"setsid --fork sh -c 'echo $$ >{left}; exec sleep 300'; sleep 300", *ONE)
    pid = int(until(lambda: left.exists() and left.read_text().strip(), "it runs", within_s=60))
    pbs.run("qdel", name)
    pbs.reaches(name, "F")
    assert is_alive(pid)

    os.kill(pid, signal.SIGKILL)


def test_a_requeued_job_runs_again_and_is_counted(pbs: PbsServer, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    name = pbs.submit(f"echo run >>{runs}; sleep 300", *ONE)
    until(lambda: runs.exists() and pbs.told(name)["substate"] == 42, "it runs", within_s=60)

    pbs.requeue(name)

    until(lambda: runs.read_text().count("run") == 2, "it runs again", within_s=60)
    until(lambda: pbs.told(name).get("run_count") == 2, "it is counted", within_s=60)


def test_a_server_that_was_ended_at_once_puts_back_what_ran(pbs: PbsServer, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    name = pbs.submit(f"echo run >>{runs}; sleep 300", *ONE)
    until(runs.exists, "it runs", within_s=60)
    pbs.fault("all", "down")

    assert pbs.run("qstat", "-f", "-F", "json", name).returncode == 255
    assert pbs.run("qsub", stdin="true").returncode == 162
    assert pbs.run("qdel", name).returncode == 162
    pbs.restart(stopped="immediate")

    until(lambda: runs.read_text().count("run") == 2, "it runs again", within_s=60)
    assert pbs.told(name)["run_count"] == 2


def test_a_restarted_server_leaves_alone_what_ran_and_tells_what_ended_meanwhile(
    pbs: PbsServer, tmp_path: Path
) -> None:
    pids, gate = tmp_path / "pids", tmp_path / "gate"
    goes_on = pbs.submit(f"echo $$ >>{pids}; sleep 300", *ONE)
    ends = pbs.submit(f"until [ -e {gate} ]; do sleep 0.1; done; exit 7", *ONE)
    until(lambda: pids.exists() and pids.read_text().strip(), "it runs", within_s=60)
    until(lambda: {pbs.told(each)["substate"] for each in (goes_on, ends)} == {42}, "both do", within_s=60)
    pbs.set(prerun_s=3600.0)
    sent = pbs.submit("sleep 300", *ONE)
    pbs.fault("all", "down")
    gate.touch()
    pbs.reaches(ends, "F")

    pbs.restart()

    told = pbs.told(goes_on)
    assert (told["job_state"], told["substate"], told["run_count"]) == ("R", 42, 1)
    assert is_alive(int(pids.read_text()))
    assert pbs.told(ends)["Exit_status"] == 7
    until(lambda: pbs.told(sent).get("run_count") == 2, "what was on its way is sent again", within_s=60)


def test_a_lost_node_takes_all_of_its_jobs_processes(new_pbs: NewServer, tmp_path: Path) -> None:
    pbs = new_pbs(nodes=2)
    pbs.set(node_fail_requeue_s=0.0)
    left = tmp_path / "left"
    name = pbs.submit(f"setsid --fork sh -c 'echo $$ >>{left}; exec sleep 300'; sleep 300", *ONE)
    pid = int(until(lambda: left.exists() and left.read_text().strip(), "it runs", within_s=60))
    where = pbs.jobs()[name]["placed"][0]

    pbs.lose_node(0)

    until(lambda: not is_alive(pid), "what left the session is gone too", within_s=60)
    until(lambda: pbs.told(name).get("run_count") == 2, "it runs again", within_s=60)
    assert pbs.jobs()[name]["placed"][0] != where
    nodes = json.loads(pbs.run("pbsnodes", "-av", "-F", "json").stdout)["nodes"]
    assert nodes[where]["state"] == "down"


def test_a_job_whose_node_is_gone_cannot_be_deleted(pbs: PbsServer) -> None:
    name = pbs.submit("sleep 300", *ONE)
    until(lambda: pbs.told(name)["substate"] == 42, "it runs", within_s=60)
    pbs.lose_node(0)
    done = pbs.run("qdel", name)
    assert (done.returncode, done.stderr) == (222, f"qdel: Server could not connect to MOM {name}\n")
    assert pbs.is_in(name, "R")


def test_a_job_that_is_not_rerunnable_ends_with_its_node(pbs: PbsServer) -> None:
    pbs.set(node_fail_requeue_s=0.0)
    name = pbs.submit("sleep 300", *ONE, "-r", "n")
    until(lambda: pbs.told(name)["substate"] == 42, "it runs", within_s=60)

    pbs.lose_node(0)

    pbs.reaches(name, "F")
    assert "Exit_status" not in pbs.told(name)


def test_a_suspended_job_stands_still_and_goes_on(pbs: PbsServer, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    name = pbs.submit(f"while :; do echo >>{ticks}; sleep 0.02; done", *ONE)
    until(ticks.exists, "it runs", within_s=60)
    pbs.suspend(name)
    told = pbs.told(name)
    assert (told["job_state"], told["substate"]) == ("S", 43)

    pbs.resume(name)

    before = ticks.stat().st_size
    until(lambda: ticks.stat().st_size > before, "it goes on", within_s=60)
    assert pbs.told(name)["job_state"] == "R"


def test_a_held_job_waits(pbs: PbsServer) -> None:
    name = pbs.submit("sleep 300", *ONE, "-h")
    assert (pbs.told(name)["job_state"], pbs.told(name)["Hold_Types"]) == ("H", "u")

    pbs.release(name)

    pbs.reaches(name, "R")


def test_an_impossible_job_is_taken_and_waits_for_ever(pbs: PbsServer) -> None:
    name = pbs.submit("true", "-l", "select=400:ncpus=2")

    assert (pbs.told(name)["job_state"], pbs.told(name)["substate"]) == ("Q", 10)
    assert pbs.told(name)["comment"].startswith("Can Never Run: Insufficient amount of resource: ncpus")


def test_a_job_that_is_scattered_has_each_chunk_on_another_host(new_pbs: NewServer) -> None:
    pbs = new_pbs(nodes=4, hosts=["n1", "n2"])
    scatter = ("-l", "place=scatter:excl")

    first = pbs.reaches(pbs.submit("sleep 300", "-l", "select=2:ncpus=2", *scatter), "R")
    assert {each.partition("/")[0] for each in first["exec_host"].split("+")} == {"n1", "n2"}

    pbs.reaches(pbs.submit("sleep 300", "-l", "select=1:ncpus=2"), "R")
    waits = pbs.submit("true", "-l", "select=2:ncpus=1", *scatter)  # two processors are left, of one host
    assert pbs.told(waits)["comment"] == "Not Running: Not enough free nodes available"
    never = pbs.submit("true", "-l", "select=3", *scatter)
    assert pbs.told(never)["comment"].startswith("Not Running: Insufficient amount of resource: ncpus")
    pbs.run("qdel", first["id"])
    pbs.reaches(waits, "F")
    assert pbs.told(never)["comment"] == "Can Never Run: Not enough total nodes available"


def test_hosts_in_parts_have_room_for_one_chunk_of_what_is_scattered(new_pbs: NewServer) -> None:
    pbs = new_pbs(nodes=2)
    waits = pbs.submit("true", "-l", "select=2:ncpus=1", "-l", "place=scatter")
    assert pbs.told(waits)["comment"] == "Can Never Run: Not enough total nodes available"


def test_gpus_are_given_to_one_job_at_a_time_and_named_where_the_site_does_so(
    new_pbs: NewServer, tmp_path: Path
) -> None:
    pbs = new_pbs(nodes=1, ncpus=8, gpus=3)
    said = tmp_path / "said"

    def seen(*options: str) -> str:
        pbs.reaches(pbs.submit(f'echo "${{CUDA_VISIBLE_DEVICES-none}}" >{said}', *options), "F")
        return said.read_text().strip()

    one, two = (("-l", f"select=1:ncpus=1:ngpus={number}") for number in (1, 2))
    assert seen(*two) == "none"
    pbs.set(names_gpus=True)
    assert (seen(*two), seen("-l", "select=1:ncpus=1")) == ("0,1", "none")
    job = pbs.submit("sleep 300", *one)
    assert pbs.reaches(job, "R")["exec_vnode"].endswith(":ngpus=1)")
    assert seen(*two) == "1,2"
    pbs.reaches(pbs.submit("sleep 300", *two), "R")
    waits, never = pbs.submit("true", *one), pbs.submit("true", "-l", "select=1:ngpus=4")
    lacks = "Insufficient amount of resource: ngpus"
    assert pbs.told(waits)["comment"] == f"Not Running: {lacks} (R: 1 A: 0 T: 3)"
    assert pbs.told(never)["comment"] == f"Can Never Run: {lacks} (R: 4 A: 0 T: 3)"


def test_a_job_may_be_in_state_e_for_long_and_its_output_never_come(pbs: PbsServer, tmp_path: Path) -> None:
    pbs.set(exiting_s=3600.0, delivers=False)
    name = pbs.submit("echo out", *ONE, "-j", "oe", "-o", str(tmp_path / "log"))

    pbs.reaches(name, "E")
    assert pbs.told(name)["substate"] == 51
    pbs.set(exiting_s=0.0)

    pbs.reaches(name, "F")
    assert not (tmp_path / "log").exists()


def test_without_history_an_ended_job_is_unknown_and_x_is_answered_by_a_line_alone(pbs: PbsServer) -> None:
    pbs.set(history=False)
    name = pbs.submit("true", *ONE)
    until(lambda: name not in pbs.jobs(), "it has ended", within_s=60)

    with_x = pbs.run("qstat", "-f", "-F", "json", "-x", name)
    without = pbs.run("qstat", "-f", "-F", "json", name)

    assert (with_x.returncode, with_x.stdout) == (0, "")
    assert with_x.stderr.startswith("qstat: PBS is not configured to maintain job history")
    assert (without.returncode, without.stderr) == (153, f"qstat: Unknown Job Id {name}\n")


def test_qdel_x_deletes_the_history_too(pbs: PbsServer) -> None:
    name = pbs.submit("sleep 300", *ONE)

    assert pbs.run("qdel", "-x", name).returncode == 0

    until(lambda: name not in pbs.jobs(), "nothing is known of it", within_s=60)
    assert pbs.run("qstat", "-x", "-f", "-F", "json", name).returncode == 153


@pytest.mark.parametrize(
    ("limits", "exit_code"),
    [
        ({"max_queued": 0}, 38),
        ({"enabled": False}, 173),
        ({"resources_max": {"nodect": 1}}, 188),
        ({"resources_max": {"walltime": "00:30:00"}}, 188),
        ({"resources_min": {"nodect": 3}}, 188),
    ],
)
def test_a_queues_limits_refuse(pbs: PbsServer, limits: dict[str, object], exit_code: int) -> None:
    pbs.set(queues={"workq": limits})

    done = pbs.run("qsub", "-l", "select=2", "-l", "walltime=01:00:00", stdin="true")

    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.startswith("qsub: ")


def test_what_belongs_into_a_chunk_is_not_taken_beside_select(pbs: PbsServer) -> None:
    done = pbs.run("qsub", "-l", "select=2", "-l", "ncpus=4", stdin="true")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == 'qsub: "-lresource=" cannot be used with "select" or "place", resource is: ncpus\n'
    assert pbs.run("qsub", "-l", "ncpus=4", stdin="true").returncode == 0


def test_a_quotation_mark_that_none_ends_is_refused(pbs: PbsServer) -> None:
    done = pbs.run("qsub", stdin="#!/bin/bash\n#PBS -v A='b\ntrue\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("qsub: usage: ")


def test_another_users_job_is_told_of_and_may_not_be_deleted(pbs: PbsServer) -> None:
    pbs.add_stranger("7[].pbs", "other@pbs", indices="1-3")

    assert pbs.told("7[].pbs")["Job_Owner"] == "other@pbs"
    assert pbs.run("qdel", "7[].pbs").returncode == 159


def test_ids_may_jump_and_be_given_without_the_servers_name(pbs: PbsServer) -> None:
    first = pbs.submit("true", *ONE)
    pbs.set(next=9_000_000)
    second = pbs.submit("true", *ONE)

    host = first.partition(".")[2]
    assert (first, second) == (f"1.{host}", f"9000000.{host}")
    assert pbs.run("qstat", "-f", "-F", "json", "-x", "9000000").returncode == 0


def test_many_may_submit_at_once(pbs: PbsServer) -> None:
    started = [
        subprocess.Popen([str(pbs.commands / "qsub"), "-h"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        for _ in range(12)
    ]
    said = {each.communicate()[0].decode().strip() for each in started}

    assert len(said) == 12
    assert said == set(pbs.jobs())


def test_a_server_ends_what_it_has_started_also_where_its_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tests.integration.pbs.server import PbsServer\n"
        "pbs = PbsServer(Path(sys.argv[1])); pbs.submit('sleep 300'); print('up', flush=True); time.sleep(300)"
    )
    (tmp_path / "pbs").mkdir()
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "pbs")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()

    mark = f"FAKE_PBS={tmp_path / 'pbs'}".encode()
    until(lambda: not _carrying(mark), "nothing of it is left", within_s=60)


def _carrying(mark: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0") and is_alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
