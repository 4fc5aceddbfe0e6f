"""Each word of Slurm has its meaning; a word that is not known ends nothing; each reason is said in words."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm import state_of
from hpcserve.cluster.slurm_jobs import SlurmJob, still_to_come
from hpcserve.cluster.slurm_reasons import in_words
from hpcserve.cluster.slurm_states import ASIDES, BASE, FLAGS, meaning

ENDED = {word for word, found in (BASE | FLAGS).items() if found.phase == "ended"}


def state(*words: str, **fields: object) -> SlurmJob:
    first, *flags = words
    return SlurmJob(job=JobId("1"), name="x", state=first, flags=frozenset(flags), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "phase", "end"),
    [
        (("PENDING",), "queued", None),
        (("PENDING", "REQUEUED"), "queued", None),
        (("PENDING", "REQUEUE_HOLD"), "queued", None),
        (("SPECIAL_EXIT",), "queued", None),
        (("RUNNING",), "running", None),
        (("RUNNING", "CONFIGURING"), "queued", None),
        (("CONFIGURING",), "queued", None),
        (("RUNNING", "COMPLETING"), "running", None),
        (("COMPLETED", "COMPLETING"), "running", None),
        (("NODE_FAIL", "COMPLETING", "REQUEUED"), "running", None),
        (("COMPLETING",), "running", None),
        (("COMPLETED", "STAGE_OUT"), "running", None),
        (("RUNNING", "RESIZING"), "running", None),
        (("RUNNING", "SIGNALING"), "running", None),
        (("RUNNING", "STOPPED"), "suspended", None),
        (("SUSPENDED",), "suspended", None),
        (("COMPLETED",), "ended", "completed"),
        (("CANCELLED",), "ended", "cancelled"),
        (("FAILED",), "ended", "failed"),
        (("TIMEOUT",), "ended", "walltime"),
        (("NODE_FAIL",), "ended", "node failed"),
        (("BOOT_FAIL",), "ended", "node failed"),
        (("PREEMPTED",), "ended", "preempted"),
        (("OUT_OF_MEMORY",), "ended", "out of memory"),
        (("DEADLINE",), "ended", "never started"),
        (("PENDING", "REVOKED"), "ended", "never started"),
        (("PENDING", "EXPEDITING"), "queued", None),
        (("RUNNING", "NEWFANGLED"), "running", None),
        (("COMPLETED", "NEWFANGLED"), "unknown", None),
        (("NEWFANGLED",), "unknown", None),
        (("UPDATE_DB",), "unknown", None),
        (("",), "unknown", None),
    ],
)
def test_the_words_of_a_job_say_its_phase(words: tuple[str, ...], phase: str, end: str | None) -> None:
    told = state_of(state(*words, host="node1"))
    assert (told.phase, told.end) == (phase, end)
    if phase == "unknown":
        assert words[-1] in told.cause


@given(st.text(max_size=12), st.sets(st.text(max_size=12) | st.sampled_from(sorted(FLAGS.keys() | ASIDES)), max_size=3))
def test_a_job_ends_only_by_a_word_that_says_so(base: str, flags: set[str]) -> None:
    found = meaning(base, flags)
    assert (found.phase == "ended") == (found.end is not None)
    if found.phase == "ended":
        assert ENDED & {base, *flags}


def test_no_word_stands_in_two_tables() -> None:
    assert all(not set(one) & set(other) for one, other in itertools.combinations((BASE, FLAGS, ASIDES), 2))


def test_a_job_that_left_the_queue_without_a_node_never_started() -> None:
    told = state_of(state("FAILED", reason="BadConstraints", exit_code=1))
    assert (told.end, told.exit_code) == ("never started", None)
    assert told.cause.startswith("FAILED; BadConstraints: no node can ever fulfil")
    assert told.cause.endswith("it never ran")


def test_a_cancelled_job_has_no_exit_code_and_names_who_cancelled() -> None:
    told = state_of(state("CANCELLED", reason="by uid 7", exit_code=0, signal=15, host="node1"))
    assert told.exit_code is None
    assert told.cause == "CANCELLED; by uid 7: cancelled by the user with this number"


@pytest.mark.parametrize(
    ("words", "reason", "cause"),
    [
        (("TIMEOUT",), "TimeLimit", "TIMEOUT; TimeLimit: its walltime is used up"),
        (("OUT_OF_MEMORY",), "OutOfMemory", "OUT_OF_MEMORY; OutOfMemory: it used more memory than it had asked for; "),
        (("TIMEOUT",), "", "TIMEOUT: its walltime is used up"),
    ],
)
def test_what_the_state_and_the_reason_say_alike_is_said_once(words: tuple[str], reason: str, cause: str) -> None:
    assert state_of(state(*words, reason=reason, host="node1")).cause.startswith(cause)


@pytest.mark.parametrize(
    ("words", "reason", "guess"),
    [
        (("PENDING",), "JobHeldUser", None),
        (("PENDING",), "JobHeldAdmin", None),
        (("PENDING",), "launch failed requeued held", None),
        (("PENDING",), "job_requeued_in_held_state", None),
        (("PENDING", "REQUEUE_HOLD"), "", None),
        (("PENDING",), "Resources", 7.0),
    ],
)
def test_a_job_that_is_held_is_not_expected_to_start(words: tuple[str, ...], reason: str, guess: float | None) -> None:
    assert state_of(state(*words, reason=reason, starts_in_s=7.0)).starts_in_s == guess


def test_slurms_sign_for_an_output_that_cannot_be_opened_is_no_signal() -> None:
    told = state_of(state("FAILED", reason="NonZeroExitCode", exit_code=0, signal=53, host="node1"))
    assert (told.end, told.exit_code) == ("failed", None)
    assert "could not be opened on the node: the node does not see shared_dir, or `logs` in it was " in told.cause


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (9, "its script was killed by signal 9 (SIGKILL); Slurm itself kills one so that uses more memory"),
        (11, "its script was killed by signal 11 (SIGSEGV)"),
        (0, "JobLaunchFailure: it could not be launched"),
        (53, "JobLaunchFailure: it could not be launched"),
    ],
)
def test_a_job_that_ran_and_was_killed_is_not_said_to_have_failed_to_launch(signal: int, words: str) -> None:
    told = state_of(state("FAILED", reason="JobLaunchFailure", exit_code=0, signal=signal, host="node1"))
    assert told.cause.startswith(f"FAILED; {words}")
    assert ("could not be launched" in told.cause) == (signal in {0, 53})


# Source: what 22.05's slurmctld and the recordings have, and what sites' users meet most.
REASONS = (
    "AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit AssocGrpCpuLimit AssocGrpGRES AssocGrpJobsLimit "
    "AssocGrpMemLimit AssocGrpNodeLimit AssocGrpSubmitJobsLimit AssocGrpWallLimit AssocMaxCpuPerJobLimit "
    "AssocMaxJobsLimit AssocMaxNodePerJobLimit AssocMaxSubmitJobLimit AssocMaxWallDurationPerJobLimit "
    "AssocMaxGRESPerJob BadConstraints BeginTime Cleaning Dependency DependencyNeverSatisfied InvalidAccount "
    "InvalidQOS JobArrayTaskLimit JobHeldAdmin JobHeldUser JobLaunchFailure Licenses MaxJobsPerAccount "
    "MaxSubmitJobsPerAccount NodeDown NonZeroExitCode OutOfMemory PartitionConfig PartitionDown PartitionInactive "
    "PartitionNodeLimit PartitionTimeLimit Priority Prolog QOSGrpCpuLimit QOSGrpNodeLimit QOSGrpWallLimit "
    "QOSJobLimit QOSMaxCpuPerUserLimit QOSMaxGRESPerUser QOSMaxJobsPerUserLimit QOSMaxNodePerJobLimit "
    "QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit QOSMaxWallDurationPerJobLimit QOSMinCpuNotSatisfied "
    "QOSMinGRES QOSNotAllowed QOSResourceLimit QOSTimeLimit QOSUsageThreshold ReqNodeNotAvail Reservation "
    "ReservationDeleted Resources SystemFailure TimeLimit "
)


@pytest.mark.parametrize(
    "reason",
    [
        *REASONS.split(),
        "launch failed requeued held",
        "launch_failed_requeued_held",
        "user env retrieval failed requeued held",
        "job requeued in held state",
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
        "ReqNodeNotAvail, UnavailableNodes:node[1-3]",
        "RaisedSignal:11(Segmentation fault)",
    ],
)
def test_a_reason_is_said_in_words_behind_its_own(reason: str) -> None:
    assert in_words(reason).startswith(f"{reason}: ")


def test_a_limit_on_one_job_and_one_on_all_are_told_apart() -> None:
    assert "lower pilots.walltime_s" in in_words("QOSMaxWallDurationPerJobLimit")
    assert "one job" in in_words("QOSMaxNodePerJobLimit")
    assert "at once" in in_words("QOSMaxNodePerUserLimit")
    assert "time granted" in in_words("AssocGrpCPUMinutesLimit")


def test_a_reason_that_is_not_known_stands_alone() -> None:
    assert in_words("SomethingNew") == "SomethingNew"
    assert in_words("") == ""


@pytest.mark.parametrize(("start_s", "left_s"), [(100.0, None), (159.0, None), (160.0, 0.0), (400.0, 240.0)])
def test_a_start_that_slurm_expected_in_the_past_is_no_guess(start_s: float, left_s: float | None) -> None:
    assert still_to_come(start_s, 160.0) == left_s
