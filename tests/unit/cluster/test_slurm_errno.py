"""Each error that was recorded at a submission ends in the right class."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from hpcserve.cluster.slurm_errno import submission_error
from hpcserve.errors import JobRefused, NoRoom, SchedulerError, SubmissionUnknown

RECORDED = Path(__file__).parents[2] / "data" / "pyslurm-25.11"
FILES = ("B-submit-fields", "C-errors", "C-errors-enforced", "G-restart-db")
REFUSED = {2000, 2010, 2012, 2014, 2018, 2029, 2038, 2045, 2048, 2053, 2066, 2072}


def recorded() -> list[tuple[str, int]]:
    found = []
    for name in FILES:
        answers: dict[str, Any] = json.loads((RECORDED / f"pyslurm-{name}.json").read_text())
        for call, answer in answers.items():
            if "submit" in call and isinstance(answer, dict) and answer.get("errno") is not None:
                found.append((call, answer["errno"]))
    return found


def test_each_recorded_refusal_of_a_submission() -> None:
    found = recorded()
    assert {number for _, number in found} == {*REFUSED, 2019, 1800}
    for call, number in found:
        assert submission_error(number) is (JobRefused if number in REFUSED else SchedulerError), call


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (2050, NoRoom),
        (2007, NoRoom),
        (2070, NoRoom),
        (2101, NoRoom),
        (2051, JobRefused),
        (2105, SchedulerError),
        (2999, JobRefused),
        (8000, JobRefused),
        (1005, SchedulerError),
        (1007, SchedulerError),
        (errno.ECONNREFUSED, SchedulerError),
        (1003, SubmissionUnknown),
        (1802, SubmissionUnknown),
        (5004, SubmissionUnknown),
        (5005, SubmissionUnknown),
        (errno.ETIMEDOUT, SubmissionUnknown),
        (-1, SubmissionUnknown),
        (0, SubmissionUnknown),
    ],
)
def test_what_a_number_says_about_the_job(number: int, expected: type[SchedulerError]) -> None:
    assert submission_error(number) is expected
