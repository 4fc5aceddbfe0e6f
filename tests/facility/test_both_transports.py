"""The two transports say the same of a real Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.host import until
from tests.facility.box.options import ACCOUNT, Options
from tests.facility.driven import Driver

pytestmark = pytest.mark.facility

# A requeued job may start again after so long. Source: sbatch(1), --requeue; it is not configurable.
REQUEUE_S = 150.0

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(min_job_age_s=2)


@pytest.fixture(params=["commands", "pyslurm"])
def ask(request: pytest.FixtureRequest, box: Box) -> Iterator[Ask]:
    """Makes one call of the transport on the login node."""
    driver = Driver(box, request.param)
    yield driver.call
    box.run(LOGIN, ["scancel", "--user=root"])
    driver.end()


def script(box: Box, command: str, *options: str) -> str:
    lines = [
        f"--job-name=a-pilot --account={ACCOUNT}",
        f"--output={box.directory}/%j.log",
        "--time=0-00:10:00",
        *options,
    ]
    return "\n".join(["#!/bin/sh", *(f"#SBATCH {line}" for line in lines), command, ""])


def submitted(ask: Ask, text: str) -> str:
    answer = ask("submit", text)
    assert "returned" in answer, answer
    job: str = answer["returned"]
    return job


def queued(ask: Ask, job: str) -> dict[str, Any]:
    """What the queue has of the job; nothing once it was forgotten."""
    answer = ask("queue")
    assert "returned" in answer, answer
    found: dict[str, Any] = next((each for each in answer["returned"] if each["job"] == job), {})
    return found


def seen(ask: Ask, job: str, **fields: object) -> dict[str, Any]:
    """The job once these are its fields."""
    last: dict[str, Any] = {}

    def is_so() -> bool:
        nonlocal last
        last = queued(ask, job) or last
        return fields.items() <= last.items()

    until(is_so, f"job {job} has {fields}")
    return last


def test_a_job_from_its_submission_to_its_end_and_beyond(box: Box, ask: Ask) -> None:
    text = script(box, 'echo "$SLURM_NTASKS $SLURM_SUBMIT_DIR"; sleep 1; exit 3', "--nodes=2 --ntasks-per-node=1")
    job = submitted(ask, text)
    running = seen(ask, job, state="RUNNING")
    assert (running["name"], running["reason"], running["restarts"]) == ("a-pilot", "", 0)
    assert running["host"] in {"node1", "node2", "node3", "node4"}
    ended = seen(ask, job, state="FAILED")
    assert (ended["exit_code"], ended["signal"], ended["reason"]) == (3, 0, "NonZeroExitCode")
    assert (box.directory / f"{job}.log").read_text().split()[0] == "2"
    until(lambda: not queued(ask, job), "slurmctld forgets the job", 60)

    def past() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask("history", [job, "999999"])["returned"]
        return found

    until(lambda: [each["state"] for each in past()] == ["FAILED"], "accounting has the end")
    assert [(each["job"], each["exit_code"], each["host"]) for each in past()] == [(job, 3, ended["host"])]


@pytest.mark.parametrize(
    ("option", "error", "said"),
    [
        ("--partition=nowhere", "JobRefused", "Invalid partition name"),
        ("--account=nobody", "JobRefused", "Invalid account"),
        ("--qos=no", "JobRefused", "Invalid qos"),
        ("--constraint=quantum", "JobRefused", "Invalid feature"),
        ("--reservation=none", "JobRefused", "Requested reservation is invalid"),
        ("--mem=9999G", "JobRefused", "configuration is not available"),
    ],
)
def test_a_job_that_is_refused(box: Box, ask: Ask, option: str, error: str, said: str) -> None:
    answer = ask("submit", script(box, "true", option))
    assert answer["error"] == error
    assert said in answer["message"]


def test_a_job_that_waits_says_why_and_can_be_cancelled(box: Box, ask: Ask) -> None:
    job = submitted(ask, script(box, "sleep 300", "--nodes=99"))
    assert seen(ask, job, state="PENDING", reason="PartitionConfig")["host"] == ""
    assert ask("cancel", job) == {"returned": None}
    ended = seen(ask, job, state="CANCELLED")
    assert ended["host"] == ""
    assert ask("cancel", job) == {"returned": None}
    assert ask("cancel", "999999") == {"returned": None}


def test_a_job_that_is_cancelled_while_it_runs(box: Box, ask: Ask) -> None:
    job = submitted(ask, script(box, "echo up; exec sleep 300"))
    # A SIGTERM that comes between Slurm's "running" and the script's first line is lost.
    log = box.directory / f"{job}.log"
    until(lambda: log.exists() and "up" in log.read_text(), "the script runs")
    assert ask("cancel", job) == {"returned": None}
    assert seen(ask, job, state="CANCELLED")["signal"] == 15


def test_a_requeued_job_waits_under_the_same_id(box: Box, ask: Ask) -> None:
    job = submitted(ask, script(box, "sleep 300", "--requeue"))
    seen(ask, job, state="RUNNING")
    box.run(LOGIN, ["scontrol", "requeue", job])
    waiting = seen(ask, job, state="PENDING", restarts=1)
    assert waiting["host"] == ""
    assert 0 <= waiting["starts_in_s"] <= REQUEUE_S


def test_without_slurmctld_nothing_is_known(box: Box, ask: Ask) -> None:
    assert "returned" in ask("queue")
    box.kill_slurmctld()
    try:
        started = time.monotonic()
        assert ask("queue")["error"] in {"SchedulerError", "Unanswered"}
        assert ask("submit", script(box, "true"))["error"] in {"SchedulerError", "SubmissionUnknown"}
        assert time.monotonic() - started < 60
    finally:
        box.start_slurmctld()
    until(lambda: "returned" in ask("queue"), "slurmctld answers", 60)


def test_without_slurmdbd_there_is_no_history(box: Box, ask: Ask) -> None:
    box.stop_slurmdbd()
    try:
        assert ask("history", ["1"])["error"] == "SchedulerError"
        assert "returned" in ask("queue")
    finally:
        box.start_slurmdbd()
    until(lambda: "returned" in ask("history", ["1"]), "accounting answers", 60)
