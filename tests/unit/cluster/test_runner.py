"""A scheduler's command gives its whole answer or an error, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from asyncio.base_subprocess import BaseSubprocessTransport
from pathlib import Path

import pytest

from hpcserve.cluster.processes import start_time
from hpcserve.cluster.runner import NICENESS, Runner, Unanswered, cleaned
from hpcserve.errors import SchedulerError

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def runner(timeout_s: float = 20.0, max_bytes: int = 1_000_000) -> Runner:
    return Runner(timeout_s=timeout_s, environment=ENVIRONMENT, max_bytes=max_bytes)


def script(directory: Path, text: str, name: str = "command") -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


async def appears(path: Path) -> int:
    end = time.monotonic() + 20
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < end, f"{path} does not appear"
        await asyncio.sleep(0.01)
    return int(path.read_text())


async def gone(pid: int) -> None:
    end = time.monotonic() + 20
    while start_time(pid) is not None:
        assert time.monotonic() < end, f"process {pid} still lives"
        await asyncio.sleep(0.01)


async def vanished(pid: int) -> None:
    """Nobody waits for it any more, either."""
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, f"process {pid} is still there"
        await asyncio.sleep(0.01)


def test_an_answer_has_all_that_was_printed_and_the_exit_code(tmp_path: Path) -> None:
    command = script(tmp_path, 'cat; echo "  a word" >&2; printf "%s" "$1" "$LC_ALL" "$EXTRA"; exit 3')

    async def ask() -> None:
        answer = await runner().run(command, "x|y", stdin=b"in\x00\xff", environment={"EXTRA": "e"})
        assert (answer.stdout, answer.stderr, answer.exit_code) == (b"in\x00\xffx|yCe", "a word", 3)
        assert answer.argv == (command, "x|y")

    asyncio.run(ask())


def test_more_than_a_pipe_holds_goes_in_and_comes_out(tmp_path: Path) -> None:
    big = b"0123456789abcdef" * 40_000
    assert asyncio.run(runner().run(script(tmp_path, "cat"), stdin=big)).stdout == big


def test_a_command_that_does_not_read_what_it_is_given_still_answers(tmp_path: Path) -> None:
    answer = asyncio.run(runner().run(script(tmp_path, "exec <&-; echo done"), stdin=b"x" * 1_000_000))
    assert answer.stdout == b"done\n"


def test_a_missing_command_is_named_with_path() -> None:
    with pytest.raises(SchedulerError, match=r"no-such-squeue: command not found in PATH \(/usr/bin:/bin\)") as caught:
        asyncio.run(runner().run("no-such-squeue"))
    assert not isinstance(caught.value, Unanswered)


@pytest.mark.parametrize(("mode", "text"), [(0o600, "#!/bin/sh\n"), (0o700, "\x7fELF garbage")])
def test_what_cannot_be_run_is_named_with_the_reason(tmp_path: Path, mode: int, text: str) -> None:
    path = tmp_path / "squeue"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(SchedulerError, match=r"squeue cannot be run: (Permission denied|Exec format error)"):
        asyncio.run(runner().run(str(path)))


def test_a_hanging_command_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    child, leader = tmp_path / "child", tmp_path / "leader"
    text = f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >{child}; sleep 600' & echo $$ >{leader}; wait; sleep 600"

    async def ask() -> None:
        with pytest.raises(Unanswered, match=r"did not answer within 0\.5 s and was killed.*scheduler\.timeout_s"):
            await runner(timeout_s=0.5).run(script(tmp_path, text))
        await gone(await appears(leader))
        await gone(await appears(child))

    asyncio.run(ask())


# The command has a child that traces it, in a process group of its own: killed, it stops on its way out, as one
# does that waits for a file server, until that child ends.
IMMORTAL = """\
import ctypes, os, pathlib, sys, time
libc = ctypes.CDLL(None, use_errno=True)
ANY_TRACER = ctypes.c_ulong(-1)
PR_SET_PTRACER, PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 0x59616D61, 0x4206, 0x40
libc.prctl(PR_SET_PTRACER, ANY_TRACER)
command = os.getpid()
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 3)
    seized = libc.ptrace(PTRACE_SEIZE, command, 0, PTRACE_O_TRACEEXIT) == 0
    pathlib.Path(sys.argv[1]).write_text(str(os.getpid() if seized else -ctypes.get_errno()))
    time.sleep(60)
    os._exit(0)
time.sleep(600)
"""


async def asyncio_has_heard() -> None:
    """It has closed what belongs to each command, which it would otherwise say at some later time."""
    async with asyncio.timeout(20):
        while any(isinstance(each, BaseSubprocessTransport) and not each.is_closing() for each in gc.get_objects()):
            await asyncio.sleep(0.02)


def test_a_command_that_cannot_be_killed_is_left_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hpcserve.cluster.runner.KILLED_WITHIN_S", 0.5)
    (tmp_path / "immortal.py").write_text(IMMORTAL)
    leader, tracer = tmp_path / "leader", tmp_path / "tracer"
    command = script(tmp_path, f"echo $$ >{leader}; exec {sys.executable} {tmp_path}/immortal.py {tracer}")

    async def ask() -> None:
        question = asyncio.create_task(runner(timeout_s=3.0).run(command))
        tracing = await appears(tracer)
        assert tracing > 0, f"it cannot be traced: {os.strerror(-tracing)}"
        try:
            async with asyncio.timeout(20):
                with pytest.raises(Unanswered, match="did not answer within 3 s"):
                    await question
            assert Path(f"/proc/{leader.read_text().strip()}").exists(), "it is still there"
        finally:
            os.kill(tracing, signal.SIGKILL)
        await vanished(int(leader.read_text()))
        await asyncio_has_heard()

    asyncio.run(ask())
    assert "was killed and does not end" in caplog.text


def test_a_cancelled_question_leaves_no_process(tmp_path: Path) -> None:
    leader = tmp_path / "leader"

    async def ask() -> None:
        question = asyncio.create_task(runner().run(script(tmp_path, f"echo $$ >{leader}; exec sleep 600")))
        pid = await appears(leader)
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        assert start_time(pid) is None

    asyncio.run(ask())


@pytest.mark.parametrize("stream", [1, 2])
def test_a_command_that_prints_without_end_is_killed(tmp_path: Path, stream: int) -> None:
    began = time.monotonic()
    with pytest.raises(Unanswered, match="printed more than 1000000 bytes and was killed"):
        asyncio.run(runner().run(script(tmp_path, f"exec cat /dev/zero >&{stream}")))
    assert time.monotonic() - began < 15


def test_a_command_that_prints_on_when_it_is_to_end_is_gone_soon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flood = 'trap "" TERM\nwhile :; do head -c 200000 /dev/zero; head -c 200000 /dev/zero >&2; done'
    with pytest.raises(Unanswered, match="did not answer within 0.5 s"):
        asyncio.run(Runner(timeout_s=0.5).run(script(tmp_path, flood)))
    assert caplog.text == "", "asyncio says of a process that it has ended once all that it printed was read"


def test_a_command_that_somebody_kills_gave_no_answer(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match=r"was killed by signal 9 \(SIGKILL\): half a word"):
        asyncio.run(runner().run(script(tmp_path, 'echo "12|RUN"; echo half a word >&2; kill -9 $$')))


def test_users_habits_do_not_change_what_is_asked() -> None:
    habits = {
        "SQUEUE_FORMAT": "%i", "SBATCH_ACCOUNT": "other", "SACCT_FORMAT": "JobID", "SCANCEL_STATE": "PENDING",
        "SLURM_TIME_FORMAT": "relative", "SLURM_CLUSTERS": "else", "SLURM_JOB_ID": "7",
    }  # fmt: skip
    kept = {"PATH": "/bin", "HOME": "/home/a", "SLURM_CONF": "/etc/slurm.conf"}
    assert cleaned(habits | kept) == kept


def test_commands_speak_english_but_one_that_begins_a_job_has_the_locale_that_the_daemon_has() -> None:
    german = {"PATH": "/usr/bin:/bin", "LANG": "de_DE.UTF-8", "LC_ALL": "de_AT.UTF-8"}

    def locale(*, submits: bool, inherited: dict[str, str]) -> bytes:
        runs = Runner(timeout_s=20.0, environment=inherited)
        return asyncio.run(runs.run("sh", "-c", 'echo "$LANG ${LC_ALL-unset}"', submits=submits)).stdout

    assert locale(submits=False, inherited=german) == b"de_DE.UTF-8 C\n"
    assert locale(submits=True, inherited=german) == b"de_DE.UTF-8 de_AT.UTF-8\n"
    assert locale(submits=True, inherited={"PATH": "/usr/bin:/bin"}) == b" unset\n"


@pytest.mark.parametrize(("submits", "niceness"), [(False, NICENESS), (True, 0)])
def test_who_only_asks_lets_requests_go_first_and_no_job_inherits_that(
    tmp_path: Path, *, submits: bool, niceness: int
) -> None:
    command = script(tmp_path, "read word; exec nice")
    answer = asyncio.run(runner().run(command, stdin=b"go\n", submits=submits))
    assert int(answer.stdout) == max(niceness, os.getpriority(os.PRIO_PROCESS, 0))
