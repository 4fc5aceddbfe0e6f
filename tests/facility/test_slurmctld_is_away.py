"""While slurmctld is dead, mute or has lost its state, nothing is concluded about a job too soon."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from hpcserve.cluster.seam import JobId, JobState
from hpcserve.errors import JobRefused, SchedulerError, SubmissionUnknown
from tests.facility.adapter import TAG, TOO_MANY, Service
from tests.facility.box.files import LOGIN
from tests.facility.box.host import until

pytestmark = pytest.mark.facility


def test_nothing_is_concluded_while_slurmctld_is_dead_and_all_is_well_when_it_is_back(service: Service) -> None:
    job = service.submitted("sleep 300")
    service.running(job)
    service.state_is_saved()
    service.box.kill_slurmctld()
    try:
        with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
            asyncio.run(service.scheduler().poll([job]))
        with pytest.raises(SchedulerError, match=r"submitted again|was not submitted") as caught:
            service.submitted("true")
        assert not isinstance(caught.value, JobRefused | SubmissionUnknown)
    finally:
        service.box.start_slurmctld()
    assert service.running(job).restarts == 0


def test_a_submission_to_a_frozen_slurmctld_is_in_doubt_and_found_by_its_name(service: Service) -> None:
    service.box.freeze_slurmctld()
    try:
        # Over pyslurm slurmctld is pinged first: what does not answer that is not sent the job.
        with pytest.raises(SchedulerError) as caught:
            service.submitted("sleep 300")
        assert isinstance(caught.value, SubmissionUnknown) or "not submitted" in str(caught.value)
    finally:
        service.box.thaw_slurmctld()
    # Whether it was taken depends on how long slurmctld was away; the name tells the truth of it.
    named = ["squeue", "--noheader", "--states=all", f"--name=hpcserve-{TAG}-pilot-1", "--format=%A"]
    taken = set(service.box.run(LOGIN, named).stdout.split())
    assert set(asyncio.run(service.scheduler().find(TAG))) == taken


@pytest.mark.parametrize(("runs", "end"), [(False, "never started"), (True, "?")])
def test_a_job_that_slurmctld_has_lost_for_good_ends(service: Service, runs: bool, end: str) -> None:  # noqa: FBT001  a case
    job = lost(service, runs=runs)
    scheduler = service.scheduler()

    async def polled_until_ended() -> JobState:
        async with asyncio.timeout(60):
            while (state := (await scheduler.poll([job]))[job]).phase == "unknown":
                await asyncio.sleep(0.2)
        return state

    state = asyncio.run(polled_until_ended())
    assert (state.phase, state.end) == ("ended", end)
    assert f"job {job} is lost" in state.cause


def lost(service: Service, *, runs: bool) -> JobId:
    """A job of which accounting knows, and slurmctld nothing any more: it was killed before it saved its state."""
    service.state_is_saved()
    saved = service.box.seen(service.box.directory / "state" / "job_state")
    before = saved.read_bytes()
    job = service.submitted("sleep 300", nodes=1 if runs else TOO_MANY)
    if runs:
        service.running(job)
    until(partial(service.is_accounted, job), f"accounting knows job {job}")
    service.box.kill_slurmctld()
    saved.write_bytes(before)  # whether it had saved since then is a matter of luck
    service.box.start_slurmctld()
    assert job not in asyncio.run(service.scheduler().find(TAG))
    return job
