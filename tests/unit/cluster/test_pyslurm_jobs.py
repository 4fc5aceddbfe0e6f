"""Everything that the real pyslurm was recorded to say about jobs, in our words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpcserve.cluster.pyslurm_jobs import live, past
from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import SlurmJob
from hpcserve.cluster.slurm_states import meaning

RECORDED = Path(__file__).parents[2] / "data" / "pyslurm-25.11"
NOW = 1795224120.0


def recordings(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"pyslurm-{name}.json").read_text())
    return found


def job_of(answer: dict[str, Any]) -> Any:
    number = re.search(r"\((\d+)\)", answer["returned"])
    assert number is not None
    shown = {"name": None, "state_reason": None, "exit_code_signal": 0, **answer["show"]}
    return SimpleNamespace(id=int(number[1]), **shown)


def told(job: int, state: str, reason: str = "", **more: Any) -> SlurmJob:
    return SlurmJob(**{"job": JobId(str(job)), "name": "", "state": state, "reason": reason, **more})


def ended(job: int, state: str, reason: str = "", **more: Any) -> SlurmJob:
    return told(job, state, reason, **{"host": "node1", "exit_code": 0, **more})


STATES = {
    "COMPLETED": ended(2, "COMPLETED"),
    "FAILED": ended(3, "FAILED", "NonZeroExitCode", exit_code=7),
    "FAILED_signal": ended(4, "FAILED", "RaisedSignal:11(Segmentation fault)", signal=11),
    "FAILED_bad_stdout": ended(5, "FAILED", "RaisedSignal:53(Real-time signal 19)", signal=53),
    "RUNNING": told(6, "RUNNING", host="node1"),
    "PENDING_resources": told(7, "PENDING", "Resources", name="pend", starts_in_s=589.0),
    "PENDING_priority": told(8, "PENDING", "Priority", name="pend2", starts_in_s=900.0),
    "PENDING_held": told(9, "PENDING", "JobHeldUser"),
    "PENDING_dependency": told(10, "PENDING", "Dependency"),
    "PENDING_begin": told(11, "PENDING", "Dependency", starts_in_s=3591.0),
    "CANCELLED": ended(6, "CANCELLED", signal=15),
    "CANCELLED_after_2s": ended(6, "CANCELLED", signal=15),
    "dependency_failed": told(10, "PENDING", "DependencyNeverSatisfied"),
    "CANCELLED_pending": ended(9, "CANCELLED", "JobHeldUser", host=""),
    "after_requeue": told(13, "PENDING", "BeginTime", restarts=1, starts_in_s=15.0),
    "after_requeue_hold": told(13, "PENDING", "BeginTime", restarts=1, starts_in_s=15.0),
    "TIMEOUT": ended(1, "TIMEOUT", "TimeLimit", name="timeout", signal=15),
    "PREEMPTED": ended(14, "PREEMPTED", signal=15),
    "PREEMPTED_requeued": told(16, "PENDING", "BeginTime", restarts=1, starts_in_s=87.0),
    "NODE_FAIL": ended(18, "NODE_FAIL", "NodeDown", host="node3", signal=1),
    "NODE_FAIL_requeued": told(19, "PENDING", restarts=1, starts_in_s=113.0),
    "array_load_master": told(20, "PENDING", "JobArrayTaskLimit", name="arr"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_job_in_each_recorded_state(name: str) -> None:
    assert live(job_of(recordings("D-states")[name]), now_s=NOW) == STATES[name]


def test_no_recorded_state_is_left_out() -> None:
    jobs = {name for name, answer in recordings("D-states").items() if "state" in jobs_fields(answer)}
    assert jobs == STATES.keys()


def jobs_fields(answer: Any) -> dict[str, Any]:
    shown = answer.get("show") if isinstance(answer, dict) else None
    return shown if isinstance(shown, dict) and "state_reason" in shown else {}


@pytest.mark.parametrize("name", ["COMPLETED_all", "RUNNING_all", "PENDING_all"])
def test_all_fields_that_are_read_are_fields_of_the_real_job(name: str) -> None:
    fields = recordings("D-states")[name]
    job = live(SimpleNamespace(**fields), now_s=NOW)
    assert (job.job, job.state) == (str(fields["id"]), fields["state"])
    assert {"user_id", "id", "name", "batch_host", "allocated_nodes"} <= fields.keys()


def test_each_state_of_the_recorded_sequences_is_one_that_the_adapter_knows() -> None:
    states = recordings("D-states")
    sequences = [*states["state_sequences"].values(), states["requeue_states"], states["timeout_seen"]]
    sequences += [states["cancel_of_term_trapping_states"]]
    sequences += [recordings("G-restart-db")["up_states"], recordings("G-restart-db")["cancel_states"]]
    seen = [step for sequence in sequences if isinstance(sequence, list) for step in sequence]
    assert len(seen) > 30
    for state, reason in seen:
        job = live(a_job(state=state, state_reason=reason), now_s=NOW)
        assert meaning(job.state, job.flags).phase != "unknown"
        assert job.reason == ("" if reason == "None" else reason)


def test_a_job_that_completes_has_no_end_yet() -> None:
    job = live(a_job(state="COMPLETING", exit_code=0, exit_code_signal=15, batch_host="node1"), now_s=NOW)
    assert job == told(1, "COMPLETING", host="node1")
    assert meaning(job.state, job.flags).phase == "running"


def test_a_guess_that_has_passed_is_none() -> None:
    assert live(a_job(state="PENDING", start_time=NOW - 5), now_s=NOW).starts_in_s is None
    assert live(a_job(state="PENDING", start_time=NOW), now_s=NOW).starts_in_s == 0.0


def test_a_job_before_and_after_a_restart_of_slurmctld() -> None:
    recorded = recordings("G-restart-db")
    assert live(job_of(recorded["before"]), now_s=NOW) == told(1, "RUNNING", host="node1")
    assert live(job_of(recorded["up"]), now_s=NOW) == told(1, "RUNNING", host="node1")


def test_a_job_from_accounting() -> None:
    recorded = recordings("G-restart-db")
    assert past(job_of(recorded["db.Job.load"])) == ended(2, "COMPLETED")
    assert past(SimpleNamespace(**recorded["db_Job_all"])) == ended(
        2, "COMPLETED", "ReqNodeNotAvail", name="allocation"
    )


def test_a_job_from_accounting_that_has_not_ended_has_no_exit_code() -> None:
    job = {**recordings("G-restart-db")["db_Job_all"], "state": "PENDING", "nodelist": "None assigned"}
    assert past(SimpleNamespace(**job)) == told(2, "PENDING", "ReqNodeNotAvail", name="allocation")


@pytest.mark.parametrize("name", ["C-errors", "C-errors-enforced", "B-submit-fields"])
def test_each_job_that_was_recorded_beside_the_errors(name: str) -> None:
    shown = [job_of(answer) for answer in recordings(name).values() if jobs_fields(answer)]
    assert shown
    for job in shown:
        assert live(job, now_s=NOW).state == job.state
        if job.state == "PENDING" and job.state_reason != "None":
            assert live(job, now_s=NOW).reason == job.state_reason


def a_job(**fields: Any) -> Any:
    return SimpleNamespace(
        **{
            "id": 1,
            "name": None,
            "state_reason": "None",
            "batch_host": None,
            "allocated_nodes": None,
            "exit_code": 0,
            "exit_code_signal": 0,
            "requeue_count": 0,
            "start_time": None,
            "run_time": 3,
            **fields,
        }
    )
