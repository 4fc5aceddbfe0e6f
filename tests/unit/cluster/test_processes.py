"""Processes are recognised, started in sessions of their own, reaped, and their ends put into words."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcserve.cluster.processes import age_s, exit_in_words, reap, spawn, start_time


def wait_for(pid: int) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        code = reap(pid)
        if code is not None:
            return code
        time.sleep(0.005)
    raise AssertionError(f"{pid} did not end")


def test_a_start_time_stays_the_same_and_is_none_for_the_dead_and_zombies() -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert start_time(process.pid) == start_time(process.pid) is not None
    assert start_time(os.getpid()) != start_time(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(process.pid) is None
    process.wait()
    assert start_time(process.pid) is None


def test_a_command_name_with_spaces_and_parentheses_does_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / "a) Z 1 ("
    odd.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(odd), "60"])
    try:
        assert (start_time(process.pid) or "").isdigit()
    finally:
        process.kill()
        process.wait()


def test_spawn_gives_a_session_the_environment_and_the_kept_descriptor(tmp_path: Path) -> None:
    inside, outside = os.pipe()
    with (tmp_path / "out").open("wb") as out, Path(os.devnull).open("rb") as null:
        program = f"import os; os.write({outside}, b'%d %s' % (os.getsid(0), os.environ['X'].encode()))"
        pid = spawn(
            (sys.executable, "-c", program),
            environment={"X": "y"},
            stdin=null.fileno(),
            stdout=out.fileno(),
            stderr=out.fileno(),
            keep=(outside,),
        )
        assert os.get_inheritable(outside) is False
        os.close(outside)
        assert wait_for(pid) == 0
    assert os.read(inside, 100) == f"{pid} y".encode()
    os.close(inside)


def test_spawn_of_a_missing_command_raises() -> None:
    with Path(os.devnull).open("r+b") as null, pytest.raises(FileNotFoundError):
        spawn(("/no/such",), environment={}, stdin=null.fileno(), stdout=null.fileno(), stderr=null.fileno())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-signal.SIGKILL, "killed by signal 9 (SIGKILL)"),
        (-signal.SIGSEGV, "killed by signal 11 (SIGSEGV)"),
        (-63, "killed by signal 63"),
    ],
)
def test_an_end_in_words(code: int, words: str) -> None:
    assert exit_in_words(code) == words


def test_a_process_knows_its_age() -> None:
    before_s, age, after_s = time.monotonic(), age_s(), time.monotonic()
    while time.monotonic() < after_s + 0.2:
        pass
    between_s, later = time.monotonic(), age_s()
    assert between_s - after_s <= later - age + 1e-3
    assert later - age <= time.monotonic() - before_s + 1e-3
    assert 0.0 < age < time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_process_is_as_old_as_the_shell_that_it_took_over() -> None:
    shell = f"read line; exec {sys.executable} -c 'from hpcserve.cluster.processes import age_s; print(age_s())'"
    process = subprocess.Popen(["/bin/sh", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    began = time.monotonic()
    while time.monotonic() < began + 0.5:
        assert process.poll() is None
    said, _ = process.communicate("go\n", timeout=30)
    assert float(said) > 0.5
