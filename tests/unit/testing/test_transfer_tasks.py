"""A task's states: what may follow what, and what its document says of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.testing.globus.transfer_documents import task_document
from hpcserve.testing.globus.transfer_tasks import OK, QUEUED, UNFINISHED, Side, Status, Task

Step = Callable[[Task, float], object]

STEPS: dict[str, Step] = {
    "start": lambda task, now: task.start(now),
    "fault": lambda task, now: task.fault("PERMISSION_DENIED", "no", now),
    "recover": lambda task, _: task.recover(),
    "suspend": lambda task, now: task.suspend(now),
    "resume": lambda task, _: task.resume(),
    "succeed": lambda task, now: task.succeed(now),
    "fail": lambda task, now: task.fail("QUOTA_EXCEEDED", "full", now),
    "expire": lambda task, now: task.expire(now),
    "cancel": lambda task, now: task.cancel(now),
}


def new() -> Task:
    document = {"DATA_TYPE": "transfer", "DATA": [], "verify_checksum": True, "label": "results"}
    return Task("t", "o", document, 0.0, 100.0, Side("s", "there"), Side("d", "here"), files=3)


def after(*names: str) -> Task:
    task = new()
    for at, name in enumerate(names):
        STEPS[name](task, float(at))
    return task


@pytest.mark.parametrize(
    ("names", "status", "nice", "fatal"),
    [
        ((), "ACTIVE", QUEUED, None),
        (("start",), "ACTIVE", OK, None),
        (("start", "fault"), "ACTIVE", "PERMISSION_DENIED", None),
        (("start", "fault", "recover"), "ACTIVE", OK, None),
        (("recover",), "ACTIVE", QUEUED, None),
        (("start", "suspend"), "INACTIVE", None, None),
        (("start", "suspend", "fault"), "INACTIVE", None, None),
        (("start", "suspend", "resume"), "ACTIVE", OK, None),
        (("start", "succeed"), "SUCCEEDED", None, None),
        (("start", "fault", "succeed"), "SUCCEEDED", None, None),
        (("start", "fail"), "FAILED", None, "QUOTA_EXCEEDED"),
        (("start", "suspend", "expire"), "FAILED", None, None),
        (("cancel",), "FAILED", None, None),
    ],
)
def test_what_a_task_says_of_itself(names: tuple[str, ...], status: str, nice: str | None, fatal: str | None) -> None:
    shown = task_document(after(*names), "ada", 50.0)
    assert (shown["status"], shown["nice_status"]) == (status, nice)
    assert (shown["fatal_error"] or {}).get("code") == fatal
    assert (shown["completion_time"] is None) is (status in ("ACTIVE", "INACTIVE"))
    assert (shown["label"], shown["verify_checksum"], shown["sync_level"]) == ("results", True, None)


@given(st.lists(st.sampled_from(sorted(STEPS))))
def test_the_end_is_the_end_and_parts_add_up(names: list[str]) -> None:
    task = new()
    ended: Status | None = None
    for at, name in enumerate(names):
        STEPS[name](task, float(at))
        if ended is not None:
            assert task.status is ended
        if task.status not in UNFINISHED and ended is None:
            ended = task.status
            assert task.completed == at
        shown = task_document(task, "ada", 50.0)
        parts = ("succeeded", "pending", "retrying", "failed", "canceled", "expired", "skipped_errors")
        if task.status is not Status.SUCCEEDED:  # Here nothing was moved.
            assert sum(shown[f"subtasks_{part}"] for part in parts) == shown["subtasks_total"]
    assert [event.at for event in task.events] == sorted(event.at for event in task.events)
    assert sum(event.code in ("SUCCEEDED", "CANCELED", "EXPIRED", "QUOTA_EXCEEDED") for event in task.events) == (
        0 if ended is None else 1
    )


def test_a_finished_task_is_not_cancelled() -> None:
    assert after("start").cancel(1.0)
    assert not after("start", "succeed").cancel(2.0)


def test_the_rate_is_that_of_the_whole_time() -> None:
    task = after("start")
    task.bytes_moved = 1000
    assert task_document(task, "ada", 10.0)["effective_bytes_per_second"] == 100
    task.succeed(20.0)
    assert task_document(task, "ada", 1000.0)["effective_bytes_per_second"] == 50
