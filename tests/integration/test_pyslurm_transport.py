"""Slurm by pyslurm: a helper process that answers, refuses, dies, hangs and babbles.

Where the real pyslurm is not installed the helper finds a stand-in that answers as the real one was recorded to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from hpcserve.cluster.seam import Answered, JobId
from hpcserve.cluster.slurm_jobs import NoAccounting, SlurmJob
from hpcserve.cluster.slurm_pyslurm import PyslurmTransport, usable
from hpcserve.errors import JobRefused, NoRoom, SchedulerError, SubmissionUnknown

TESTS = Path(__file__).parents[1]
RECORDED = TESTS / "data" / "pyslurm-25.11"
PATIENCE_S = 60.0
SCRIPT = "#!/bin/sh\n#SBATCH --job-name=a --nodes=2 --time=10\ntrue\n"
DOWN = {"exc_type": "RPCError", "errno": 1800, "str": "Unable to contact slurm controller (connect failure)"}

Scene = Callable[..., None]
Scenario = Callable[[PyslurmTransport], Awaitable[None]]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Says how the stand-in behaves from the next call on."""
    file = tmp_path / "scene.json"

    def play(**what: Any) -> None:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(what))
        part.replace(file)

    play()
    monkeypatch.setenv("PYSLURM_STANDIN", str(file))
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "fakes"))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return play


def recording(file: str, call: str) -> Any:
    return json.loads((RECORDED / f"pyslurm-{file}.json").read_text())[call]


def played(scenario: Scenario, *, timeout_s: float = PATIENCE_S) -> None:
    """Runs the scenario; no process is left of it."""

    async def run() -> None:
        transport = PyslurmTransport(timeout_s=timeout_s)
        try:
            await scenario(transport)
        finally:
            await transport.close()

    asyncio.run(run())
    assert helpers() == []


def helpers() -> list[int]:
    return [each.pid for each in psutil.Process().children() if "hpcserve.cluster.pyslurm_helper" in each.cmdline()]


async def failure(call: Awaitable[object]) -> SchedulerError:
    with pytest.raises(SchedulerError) as caught:
        await call
    return caught.value


def refusals() -> list[tuple[str, str]]:
    found = []
    for file in ("B-submit-fields", "C-errors", "C-errors-enforced"):
        answers = json.loads((RECORDED / f"pyslurm-{file}.json").read_text())
        found += [(file, call) for call, each in answers.items() if "submit" in call and "exc_type" in each]
    return found


def test_a_submission_hands_all_fields_over(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_WORD", "ü")
    monkeypatch.setenv("NO_UTF8", os.fsdecode(b"\xff"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    scene(submit=recording("B-submit-fields", "submit_full"), submitted=str(tmp_path / "submitted"))

    async def scenario(transport: PyslurmTransport) -> None:
        assert await transport.submit(SCRIPT) == JobId("1")

    mask = os.umask(0o027)
    try:
        played(scenario)
    finally:
        os.umask(mask)
    fields = json.loads((tmp_path / "submitted").read_text())
    environment = fields.pop("environment")
    assert fields == {"name": "a", "nodes": 2, "ntasks": 2, "time_limit": 10, "script": SCRIPT}
    assert environment["A_WORD"] == "ü"
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["SLURM_SUBMIT_DIR"] == str(Path.cwd())
    assert environment["SLURM_UMASK"] == "0027"
    assert not {"NO_UTF8", "SLURM_JOB_ID", "SBATCH_PARTITION", "PYSLURM_DISABLE_AUTO_INIT"} & environment.keys()


def test_each_recorded_refusal(scene: Scene) -> None:
    async def scenario(transport: PyslurmTransport) -> None:
        for file, call in refusals():
            answer = recording(file, call)
            scene(submit=answer)
            error = await failure(transport.submit(SCRIPT))
            # 2019 is also how a full disk of slurmctld looks: that ends.
            assert type(error) is (SchedulerError if answer["errno"] == 2019 else JobRefused), call
            assert answer["str"] in error.message

    assert len(refusals()) > 40
    played(scenario)


@pytest.mark.parametrize(
    ("number", "expected"), [(2050, NoRoom), (5004, SubmissionUnknown), (1007, SchedulerError), (-1, SubmissionUnknown)]
)
def test_other_ends_of_a_submission(scene: Scene, number: int, expected: type[SchedulerError]) -> None:
    scene(submit={"exc_type": "RPCError", "errno": number, "str": "so it is"})

    async def scenario(transport: PyslurmTransport) -> None:
        assert type(await failure(transport.submit(SCRIPT))) is expected

    played(scenario)


def test_an_option_that_pyslurm_does_not_know_is_refused_before_slurm_sees_the_job(
    scene: Scene, tmp_path: Path
) -> None:
    scene(submitted=str(tmp_path / "submitted"))

    async def scenario(transport: PyslurmTransport) -> None:
        error = await failure(transport.submit("#!/bin/sh\n#SBATCH --hint=nomultithread\ntrue\n"))
        assert isinstance(error, JobRefused)
        assert "--hint=nomultithread" in error.message

    played(scenario)
    assert not (tmp_path / "submitted").exists()


def test_the_queue_has_the_jobs_of_this_user_only(scene: Scene) -> None:
    mine = recording("D-states", "RUNNING")
    another = recording("D-states", "COMPLETED")
    another["show"]["user_id"] = os.getuid() + 1
    scene(jobs=[mine, another], noise=True)

    async def scenario(transport: PyslurmTransport) -> None:
        assert list(await transport.queue()) == [SlurmJob(job=JobId("6"), name="", state="RUNNING", host="node1")]

    played(scenario)


def test_history_leaves_out_what_accounting_does_not_know(scene: Scene) -> None:
    scene(past={"2": recording("G-restart-db", "db.Job.load")})

    async def scenario(transport: PyslurmTransport) -> None:
        jobs = await transport.history([JobId("2"), JobId("999999"), JobId("of another scheduler")])
        assert list(jobs) == [SlurmJob(job=JobId("2"), name="", state="COMPLETED", host="node1", exit_code=0)]
        assert list(await transport.history([])) == []

    played(scenario)


@pytest.mark.parametrize(("file", "call"), [("G-restart-db", "dbd_down_db.Jobs.load"), ("P-purge", "db_after_purge")])
def test_accounting_that_is_down_is_no_history(scene: Scene, file: str, call: str) -> None:
    scene(past={"2": recording(file, call)})

    async def scenario(transport: PyslurmTransport) -> None:
        error = await failure(transport.history([JobId("2")]))
        assert type(error) is SchedulerError
        assert "Failed to get Jobs from slurmdbd" in error.message

    played(scenario)


@pytest.mark.parametrize("kind", [None, "accounting_storage/none"])
def test_where_there_is_no_accounting_it_says_so(scene: Scene, kind: str | None) -> None:
    scene(past={"2": recording("P-purge", "db_after_purge")}, accounting=kind)

    async def scenario(transport: PyslurmTransport) -> None:
        assert isinstance(await failure(transport.history([JobId("2")])), NoAccounting)

    played(scenario)


@pytest.mark.parametrize(
    ("file", "call"),
    [
        ("C-errors", "cancel_unknown"),
        ("C-errors", "cancel_finished"),
        ("P-purge", "cancel_purged"),
        ("C-errors", "load_unknown"),
    ],
)
def test_cancelling_what_is_gone_is_no_error(scene: Scene, file: str, call: str) -> None:
    scene(cancel=recording(file, call))

    async def scenario(transport: PyslurmTransport) -> None:
        await transport.cancel(JobId("7"))
        await transport.cancel(JobId("of another scheduler"))

    played(scenario)


def test_cancelling_the_job_of_another_is_an_error(scene: Scene) -> None:
    scene(cancel=recording("C-errors", "cancel_other_users_job"))

    async def scenario(transport: PyslurmTransport) -> None:
        error = await failure(transport.cancel(JobId("7")))
        assert "Access/permission denied (Slurm's error 2002)" in error.message
        assert isinstance(error, Answered), "which leaves nobody alone"

    played(scenario)


def test_a_slurmctld_that_is_down_is_pinged_and_not_waited_for(scene: Scene) -> None:
    hold = {"hold_s": 2 * PATIENCE_S}
    scene(
        **{"ping": recording("G-restart-db", "down_ping"), "ping of the backup": DOWN},
        jobs=hold,
        submit=hold,
        cancel=hold,
    )

    async def scenario(transport: PyslurmTransport) -> None:
        assert "Unable to contact slurm controller" in (await failure(transport.queue())).message
        error = await failure(transport.submit(SCRIPT))
        assert type(error) is SchedulerError
        assert "was not submitted" in error.message
        await failure(transport.cancel(JobId("7")))
        pid = helpers()
        scene(jobs=[])
        assert list(await transport.queue()) == []
        assert helpers() == pid

    played(scenario)


def test_one_controller_of_two_is_enough(scene: Scene) -> None:
    scene(ping=DOWN, jobs=[])

    async def scenario(transport: PyslurmTransport) -> None:
        assert list(await transport.queue()) == []

    played(scenario)


def test_what_slurm_writes_beside_an_error_is_told(scene: Scene) -> None:
    scene(submit=recording("C-errors", "submit_bad_partition"), noise=True)

    async def scenario(transport: PyslurmTransport) -> None:
        error = await failure(transport.submit(SCRIPT))
        assert error.message.startswith(
            "Slurm refuses the job: Invalid partition name specified; correct pilots.partition"
        )
        assert error.message.endswith("python: error: and slurm writes there")

    played(scenario)


def test_the_loop_turns_while_pyslurm_holds_its_gil(scene: Scene) -> None:
    scene(jobs={"hold_s": 4.0})

    async def scenario(transport: PyslurmTransport) -> None:
        asked = asyncio.create_task(transport.queue())
        longest, last = 0.0, time.monotonic()
        while not asked.done():
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        await failure(asked)  # an answer that is an object is none
        assert longest < 2.0

    played(scenario)


def test_calls_are_served_one_after_the_other(scene: Scene) -> None:
    scene(jobs=[recording("D-states", "RUNNING")], submit={"returned": "5", "hold_s": 0.3}, past={})

    async def scenario(transport: PyslurmTransport) -> None:
        job, queue, history, other = await asyncio.gather(
            transport.submit(SCRIPT), transport.queue(), transport.history([JobId("1")]), transport.submit(SCRIPT)
        )
        assert (job, len(queue), list(history), other) == ("5", 1, [], "5")
        assert len(helpers()) == 1

    played(scenario)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSEGV])
def test_a_helper_that_is_killed_between_two_calls_is_replaced(scene: Scene, ending: signal.Signals) -> None:
    scene(jobs=[])

    async def scenario(transport: PyslurmTransport) -> None:
        await transport.queue()
        os.kill(helpers()[0], ending)
        assert f"killed by signal {ending.value}" in (await failure(transport.queue())).message
        assert list(await transport.queue()) == []

    played(scenario)


def test_a_submission_whose_helper_dies_may_have_been_taken(scene: Scene, tmp_path: Path) -> None:
    submitted = tmp_path / "submitted"
    scene(submit={"hold_s": 2 * PATIENCE_S}, submitted=str(submitted))

    async def scenario(transport: PyslurmTransport) -> None:
        asked = asyncio.create_task(transport.submit(SCRIPT))
        while not submitted.exists():
            await asyncio.sleep(0.01)
        os.kill(helpers()[0], signal.SIGKILL)
        error = await failure(asked)
        assert isinstance(error, SubmissionUnknown)
        assert "killed by signal 9 (SIGKILL)" in error.message

    played(scenario)


def test_a_helper_that_hangs_is_killed_and_replaced(scene: Scene) -> None:
    scene(jobs={"hold_s": 2 * PATIENCE_S}, submit={"hold_s": 2 * PATIENCE_S})

    async def scenario(transport: PyslurmTransport) -> None:
        error = await failure(transport.submit(SCRIPT))
        assert isinstance(error, SubmissionUnknown)
        assert "did not answer within 3 s" in error.message
        assert helpers() == []
        scene(jobs=[])
        assert list(await transport.queue()) == []

    played(scenario, timeout_s=3.0)


@pytest.mark.parametrize("babble", ["garbage\n", '{"kind":"done"}\n', '{"kind":"submitted","job":', "\xff\n", "\n"])
def test_garbage_is_no_answer(scene: Scene, babble: str) -> None:
    scene(jobs={"babble": babble}, submit={"babble": babble, "returned": "1"})

    async def scenario(transport: PyslurmTransport) -> None:
        assert isinstance(await failure(transport.submit(SCRIPT)), SubmissionUnknown)
        scene(jobs=[])
        assert list(await transport.queue()) == []

    played(scenario)


def test_the_c_code_may_end_the_process_in_a_call(scene: Scene) -> None:
    scene(jobs={"fatal": "cannot go on"})

    async def scenario(transport: PyslurmTransport) -> None:
        error = await failure(transport.queue())
        assert error.message.endswith("exit code 1: python: fatal: cannot go on")

    played(scenario)


def test_a_helper_that_fails_again_and_again_is_started_less_and_less_often(scene: Scene) -> None:
    scene(init={"fatal": "Unable to process configuration file"})

    async def scenario(transport: PyslurmTransport) -> None:
        for _ in range(2):
            error = await failure(transport.submit(SCRIPT))
            assert type(error) is SchedulerError
            assert error.message.endswith("fatal: Unable to process configuration file")
        error = await failure(transport.submit(SCRIPT))
        assert "pyslurm is started again in" in error.message
        scene(jobs=[])
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                assert list(await transport.queue()) == []
            except SchedulerError:
                await asyncio.sleep(0.05)
            else:
                return
        raise AssertionError("no helper was started again")

    played(scenario)


def test_a_call_that_is_cancelled_leaves_no_answer_to_the_next_one(scene: Scene) -> None:
    scene(jobs=[], past={"2": {"hold_s": 2 * PATIENCE_S}})

    async def scenario(transport: PyslurmTransport) -> None:
        assert list(await transport.queue()) == []
        asked = asyncio.create_task(transport.history([JobId("2")]))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert helpers() == []
        assert list(await transport.queue()) == []

    played(scenario)


def test_a_start_that_is_cancelled_leaves_no_process(scene: Scene) -> None:
    scene(init={"hold_s": 2 * PATIENCE_S})

    async def scenario(transport: PyslurmTransport) -> None:
        asked = asyncio.create_task(transport.queue())
        while not helpers():
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert helpers() == []

    played(scenario)


@pytest.mark.usefixtures("scene")
def test_a_helper_whose_owner_is_gone_ends() -> None:
    async def owner() -> int:
        code = (
            "import asyncio, os\n"
            "from hpcserve.cluster.slurm_pyslurm import PyslurmTransport\n"
            "import psutil\n"
            "async def main():\n"
            "    await PyslurmTransport(timeout_s=20).queue()\n"
            "    print(psutil.Process().children()[0].pid, flush=True)\n"
            "    os.kill(os.getpid(), 9)\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        return int(said)

    pid = asyncio.run(owner())
    deadline = time.monotonic() + PATIENCE_S
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("scene")
def test_it_is_usable_where_it_answers() -> None:
    assert asyncio.run(usable(PATIENCE_S)) == ""
    assert helpers() == []


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"import": "missing"}, "pyslurm is not installed"),
        ({"import": "other Slurm"}, "built for another Slurm: libslurm.so.44"),
        ({"import": "fatal"}, "exit code 1: python: fatal: Could not establish a configuration source"),
        ({"version": "24.5.0"}, "pyslurm 24.5.0 is installed, and only 25.11 is known"),
        ({"init": {"fatal": "Unable to process configuration file"}}, "fatal: Unable to process configuration file"),
        ({"ping": {"fatal": "no"}}, "exit code 1: python: fatal: no"),
        ({"ping": {**DOWN, "errno": 1005}, "ping of the backup": DOWN}, "another release than slurmctld"),
    ],
)
def test_it_says_why_it_is_not_usable(scene: Scene, what: dict[str, Any], reason: str) -> None:
    scene(**what)
    assert reason in asyncio.run(usable(PATIENCE_S))
    assert helpers() == []


@pytest.mark.usefixtures("scene")
def test_it_is_not_usable_without_the_file_that_slurm_conf_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/nope/slurm.conf")
    assert "SLURM_CONF names /nope/slurm.conf" in asyncio.run(usable(PATIENCE_S))


def test_an_initialisation_that_hangs_is_not_waited_for(scene: Scene) -> None:
    scene(init={"hold_s": 2 * PATIENCE_S})
    assert "did not answer within 1 s" in asyncio.run(usable(1.0))
    assert helpers() == []


@pytest.mark.parametrize("ping", [DOWN, {"hold_s": 2 * PATIENCE_S}])
def test_a_slurmctld_that_is_down_or_frozen_says_nothing_against_it(scene: Scene, ping: dict[str, Any]) -> None:
    scene(**{"ping": ping, "ping of the backup": DOWN})
    assert asyncio.run(usable(3.0)) == ""
    assert helpers() == []
