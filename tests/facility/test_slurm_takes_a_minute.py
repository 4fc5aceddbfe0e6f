"""What takes Slurm a minute or more: the jobs of all tests and of both transports wait for it together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from hpcserve.cluster.seam import JobId
from tests.facility.adapter import TAG, TRANSPORTS, Service, served
from tests.facility.box.cluster import Box
from tests.facility.box.options import Options

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

FORGOTTEN_AFTER_S = 150.0
"""slurmctld looks once a minute for jobs that it may forget."""
OVERDUE_AFTER_S = 150.0
"""So often it looks for jobs that are past their walltime, too."""


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(min_job_age_s=5)


@dataclass
class Waiting:
    """The jobs of one transport."""

    service: Service
    overdue: JobId
    failed: JobId


@pytest.fixture(scope="module")
def all_waiting(box: Box, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Waiting]]:
    """Submits everything at once."""
    with ExitStack() as stack:
        jobs: dict[str, Waiting] = {}
        for transport in TRANSPORTS:
            service = stack.enter_context(served(box, tmp_path_factory.mktemp(transport), transport))
            # The warning before the end is no signal that ends the job.
            overdue = service.submitted("trap '' USR1 USR2; sleep 300", walltime_s=60.0)
            jobs[transport] = Waiting(service, overdue, service.submitted("exit 7"))
        yield jobs


@pytest.fixture(params=sorted(TRANSPORTS))
def waiting(request: pytest.FixtureRequest, all_waiting: Mapping[str, Waiting]) -> Waiting:
    return all_waiting[request.param]


def test_walltime_ends_a_job(waiting: Waiting) -> None:
    assert waiting.service.ended(waiting.overdue, within_s=OVERDUE_AFTER_S).end == "walltime"


def test_a_job_that_slurmctld_has_forgotten_is_told_by_accounting(waiting: Waiting) -> None:
    service, job = waiting.service, waiting.failed
    end = time.monotonic() + FORGOTTEN_AFTER_S
    while job in asyncio.run(service.scheduler().find(TAG)):
        assert time.monotonic() < end, "slurmctld does not forget"
        time.sleep(0.5)
    state = service.ended(job)
    assert (state.end, state.exit_code) == ("failed", 7)
    service.box.stop_slurmdbd()
    try:
        away = asyncio.run(service.scheduler().poll([job]))[job]
        assert away.phase == "unknown"
        assert f"slurmctld has forgotten job {job}" in away.cause
    finally:
        service.box.start_slurmdbd()
