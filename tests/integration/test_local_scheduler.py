"""Scheduler ``local`` with real processes, controllers that come and go, and pids that lie."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from hpcserve.cluster.local import _SHELL, KEEP_ENDED_S, LocalScheduler, Record
from hpcserve.cluster.processes import start_time
from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.errors import SchedulerError
from hpcserve.types import PilotId

PATIENCE_S = 60.0


def job(directory: Path, script: str, walltime_s: float = 60.0) -> PilotJob:
    return PilotJob(
        pilot=PilotId("pilot-1"),
        tag="t",
        argv=("/bin/sh", "-c", script),
        directory=directory,
        log=directory / "logs" / "job.log",
        walltime_s=walltime_s,
    )


async def ended(scheduler: LocalScheduler, name: JobId) -> JobState:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        state = (await scheduler.poll([name]))[name]
        if state.phase == "ended":
            return state
        assert state.phase == "running"
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} did not end")


async def file_there(path: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        await asyncio.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def record_of(directory: Path, name: JobId) -> Record:
    return msgspec.json.decode((directory / f"{name}.json").read_bytes(), type=Record)


def test_a_job_runs_and_its_exit_code_output_and_directory_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs")
        name = await scheduler.submit(job(tmp_path, "pwd; echo oops >&2; exit 3"))
        state = await ended(scheduler, name)
        assert (state.exit_code, state.cause) == (3, "exit code 3")
        assert (tmp_path / "logs" / "job.log").read_text() == f"{tmp_path}\noops\n"
        assert (tmp_path / "logs" / "job.log").stat().st_mode & 0o777 == 0o600
        assert await scheduler.find("t") == {name: "pilot-1"}

    asyncio.run(scenario())


def test_a_jobs_record_is_on_the_disk_before_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def seen(descriptor: int) -> None:
        real(descriptor)
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().suffix, (tmp_path / "runs").exists()))

    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs")
        name = await scheduler.submit(job(tmp_path, "echo >runs; sleep 60"))
        await file_there(tmp_path / "runs")
        assert synced == [(".part", False)]
        await scheduler.cancel(name)
        await ended(scheduler, name)

    monkeypatch.setattr(os, "fsync", seen)
    asyncio.run(scenario())


def test_a_command_that_a_signal_ended_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs")
        state = await ended(scheduler, await scheduler.submit(job(tmp_path, "kill -9 $$")))
        assert (state.exit_code, state.cause) == (-9, "killed by signal 9 (SIGKILL)")

    asyncio.run(scenario())


def test_a_command_that_does_not_exist_ends_with_the_reason_in_its_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs")
        wanted = PilotJob(
            pilot=PilotId("p"),
            tag="t",
            argv=("/no/such/command",),
            directory=tmp_path,
            log=tmp_path / "log",
            walltime_s=9.0,
        )
        state = await ended(scheduler, await scheduler.submit(wanted))
        assert state.exit_code == 127
        assert "/no/such/command" in (tmp_path / "log").read_text()

    asyncio.run(scenario())


def test_cancel_is_kind_first_and_reaches_the_whole_group(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs")
        script = "trap 'echo bye >out; exit 0' TERM; echo $$ >started; while :; do sleep 0.05; done"
        name = await scheduler.submit(job(tmp_path, script))
        await file_there(tmp_path / "started")
        await scheduler.cancel(name)
        state = await ended(scheduler, name)
        assert state.cause == "cancelled"
        assert (tmp_path / "out").read_text() == "bye\n"

    asyncio.run(scenario())


def test_cancel_kills_what_ignores_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs", cancel_grace_s=0.1)
        name = await scheduler.submit(job(tmp_path, "trap '' TERM; echo $$ >started; while :; do sleep 0.05; done"))
        pid = int(await file_there(tmp_path / "started"))
        await scheduler.cancel(name)
        state = await ended(scheduler, name)
        assert (state.cause, state.exit_code) == ("cancelled", -9)
        assert start_time(pid) is None

    asyncio.run(scenario())


def test_the_walltime_ends_a_job(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs", cancel_grace_s=0.1)
        state = await ended(scheduler, await scheduler.submit(job(tmp_path, "sleep 60", walltime_s=0.2)))
        assert state.cause == "its walltime of 0.2 s is used up"

    asyncio.run(scenario())


def test_what_a_dead_job_leaves_in_its_group_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs")
        name = await scheduler.submit(job(tmp_path, "sleep 60 & echo $! >left; exit 0"))
        await ended(scheduler, name)
        left = int((tmp_path / "left").read_text())
        deadline = time.monotonic() + PATIENCE_S
        while start_time(left) is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert start_time(left) is None

    asyncio.run(scenario())


def submit_from_another_process(tmp_path: Path, script: str) -> JobId:
    """Submits in a process that ends at once, as a controller that was killed would."""
    program = (
        "import asyncio, sys, pathlib\n"
        "from hpcserve.cluster.local import LocalScheduler\n"
        "from hpcserve.cluster.seam import PilotJob\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "job = PilotJob(pilot='pilot-1', tag='t', argv=('/bin/sh', '-c', sys.argv[2]), directory=root,"
        " log=root / 'job.log', walltime_s=60.0)\n"
        "print(asyncio.run(LocalScheduler(root / 'jobs').submit(job)))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), script], capture_output=True, text=True, check=True, timeout=60
    )
    return JobId(answer.stdout.strip())


def test_the_next_controller_finds_a_job_and_learns_how_it_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        script = "while [ ! -e stop ]; do sleep 0.02; done; exit 5"
        name = submit_from_another_process(tmp_path, script)
        scheduler = LocalScheduler(tmp_path / "jobs")
        assert await scheduler.find("t") == {name: "pilot-1"}
        assert (await scheduler.poll([name]))[name].phase == "running"
        (tmp_path / "stop").touch()
        assert (await ended(scheduler, name)).exit_code == 5

    asyncio.run(scenario())


def test_the_next_controller_can_cancel(tmp_path: Path) -> None:
    async def scenario() -> None:
        name = submit_from_another_process(tmp_path, "sleep 60")
        scheduler = LocalScheduler(tmp_path / "jobs")
        await scheduler.cancel(name)
        state = await ended(scheduler, name)
        assert (state.cause, state.exit_code) == ("cancelled", -signal.SIGTERM)

    asyncio.run(scenario())


def test_a_job_killed_whole_while_no_controller_ran(tmp_path: Path) -> None:
    async def scenario() -> None:
        name = submit_from_another_process(tmp_path, "sleep 60")
        os.killpg(record_of(tmp_path / "jobs", name).pid, signal.SIGKILL)
        state = await ended(LocalScheduler(tmp_path / "jobs"), name)
        assert state.exit_code is None
        assert "without an exit code" in state.cause

    asyncio.run(scenario())


@pytest.mark.parametrize("lie", ["start_time", "boot_id"])
def test_another_process_with_the_same_pid_is_not_the_job_and_is_not_harmed(tmp_path: Path, lie: str) -> None:
    async def scenario() -> None:
        bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
        try:
            jobs = tmp_path / "jobs"
            jobs.mkdir()
            current = LocalScheduler(jobs)
            name = await current.submit(job(tmp_path, "exit 0"))
            await ended(current, name)
            told = {"start_time": start_time(bystander.pid), "boot_id": record_of(jobs, name).boot_id}
            told[lie] = "other"
            record = msgspec.structs.replace(
                record_of(jobs, name), pid=bystander.pid, ended=False, exit_code=None, cause="", **told
            )
            (jobs / f"{name}.json").write_bytes(msgspec.json.encode(record))
            (jobs / f"{name}.exit").unlink()
            after = LocalScheduler(jobs, cancel_grace_s=0.01)
            await after.cancel(name)
            state = await ended(after, name)
            assert state.cause == "the machine was restarted" if lie == "boot_id" else "without" in state.cause
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()

    asyncio.run(scenario())


def test_a_job_whose_record_cannot_be_written_never_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        jobs = tmp_path / "jobs"
        scheduler = LocalScheduler(jobs)
        jobs.rmdir()
        jobs.write_text("in the way")
        with pytest.raises(SchedulerError, match="cannot start pilot job pilot-1"):
            await scheduler.submit(job(tmp_path, "touch ran"))
        assert await scheduler.find("t") == {}
        assert not (tmp_path / "ran").exists()

    asyncio.run(scenario())


def test_a_job_whose_controller_dies_before_the_word_never_runs(tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", _SHELL, str(tmp_path / "exit"), str(tmp_path), "touch", "ran"]
    assert subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode == 125
    assert list(tmp_path.iterdir()) == []
    assert subprocess.run(argv, input=b"go\n", check=False).returncode == 0
    assert (tmp_path / "ran").exists()


def test_an_unreadable_record_is_unknown_and_a_missing_one_never_ran(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "broken.json").write_text("{")
        states = await LocalScheduler(tmp_path).poll([JobId("broken"), JobId("missing")])
        assert states[JobId("broken")].phase == "unknown"
        assert "broken.json" in states[JobId("broken")].cause
        assert states[JobId("missing")].phase == "ended"

    asyncio.run(scenario())


def test_old_records_of_ended_jobs_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs")
        name = await scheduler.submit(job(tmp_path, "exit 0"))
        await ended(scheduler, name)
        assert await LocalScheduler(tmp_path / "jobs").find("t") == {name: "pilot-1"}
        old = time.time() - KEEP_ENDED_S - 60
        os.utime(tmp_path / "jobs" / f"{name}.json", (old, old))
        assert await LocalScheduler(tmp_path / "jobs").find("t") == {}
        assert list((tmp_path / "jobs").iterdir()) == []

    asyncio.run(scenario())


def test_of_many_ended_jobs_the_last_are_remembered(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = LocalScheduler(tmp_path / "jobs", keep_ended=2)
        lasting = await scheduler.submit(job(tmp_path, "exec sleep 60"))
        names = []
        for _ in range(4):
            names.append(await scheduler.submit(job(tmp_path, "exit 0")))
            await ended(scheduler, names[-1])
        assert set(await scheduler.find("t")) == {lasting, *names[-2:]}
        await scheduler.cancel(lasting)
        await ended(scheduler, lasting)
        kept = {names[-1], lasting}
        assert set(await scheduler.find("t")) == kept, "it ended last, though it began first"
        assert {path.name.removesuffix(path.suffix) for path in (tmp_path / "jobs").iterdir()} == kept
        assert set(await LocalScheduler(tmp_path / "jobs").find("t")) == kept
        other = LocalScheduler(tmp_path / "jobs", keep_ended=1)
        states = await other.poll(list(kept))
        assert [state.exit_code for state in states.values()].count(None) < 2, "one that is asked for stays"
        assert set(await other.find("t")) == kept
        await other.poll([])
        assert set(await other.find("t")) == {lasting}

    asyncio.run(scenario())
