"""The adapter on a real Slurm, over each transport that there is here: the ordinary life of a job, and refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hpcserve.cluster.seam import JobId
from hpcserve.errors import JobRefused, NoRoom
from tests.facility.adapter import TAG, TOO_MANY, Service
from tests.facility.box.files import LOGIN
from tests.facility.box.host import until
from tests.facility.box.options import ACCOUNT, TINY_QOS

pytestmark = pytest.mark.facility


def test_a_job_is_submitted_runs_and_ends(service: Service) -> None:
    job = service.submitted("sleep 2")
    running = service.running(job)
    assert running.host.startswith("node")
    assert running.end is None
    assert asyncio.run(service.scheduler().find(TAG))[job] == "pilot-1"
    assert asyncio.run(service.scheduler().find("ffffffff")) == {}
    ended = service.ended(job)
    assert (ended.end, ended.exit_code, ended.host) == ("completed", 0, running.host)


def test_the_exit_code_of_a_job_is_told(service: Service) -> None:
    failed = service.submitted("exit 7")
    state = service.ended(failed)
    assert (state.end, state.exit_code) == ("failed", 7)
    assert "NonZeroExitCode" in state.cause


def test_a_job_that_never_was_is_unknown_and_may_be_cancelled(service: Service) -> None:
    job = JobId("99999")
    assert asyncio.run(service.scheduler().poll([job]))[job].phase == "unknown"
    asyncio.run(service.scheduler().cancel(job))


def test_cancelling_ends_a_running_and_a_waiting_job(service: Service) -> None:
    running = service.submitted("sleep 300", nodes=4, exclusive=True)
    service.running(running)
    waiting = service.submitted("sleep 300")
    service.box.run(LOGIN, ["scontrol", "uhold", waiting])
    assert service.until(waiting, lambda state: "scontrol release" in state.cause).phase == "queued"
    for job in (running, waiting):
        asyncio.run(service.scheduler().cancel(job))
        assert service.ended(job).end == "cancelled"
        asyncio.run(service.scheduler().cancel(job))


@pytest.mark.parametrize(
    ("pilots", "message"),
    [
        ({"partition": "nowhere"}, r"pilots\.partition"),
        ({"account": "nobody"}, r"pilots\.account"),
        ({"qos": "none"}, r"pilots\.qos"),
        ({"constraint": "unheard-of"}, r"pilots\.constraint"),
        ({"reservation": "none"}, r"pilots\.reservation"),
        ({"gpus_per_node": 99}, r"pilots\.gpus_per_node|\[pilots\]"),
        ({"memory_per_node_mib": 999_999}, r"pilots\.memory_per_node_mib|\[pilots\]"),
    ],
)
def test_an_impossible_job_is_refused_with_the_setting_to_correct(
    service: Service, pilots: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobRefused, match=message):
        service.submitted("true", **pilots)


@pytest.mark.parametrize(
    ("pilots", "walltime_s", "message"),
    [
        ({"nodes": TOO_MANY}, 60.0, r"pilots\.nodes"),
        ({"partition": "debug"}, 3600.0, r"pilots\.walltime_s"),
    ],
)
def test_an_impossible_job_that_slurm_takes_waits_with_the_reason(
    service: Service, pilots: dict[str, Any], walltime_s: float, message: str
) -> None:
    job = service.submitted("true", walltime_s=walltime_s, **pilots)
    state = service.until(job, lambda state: "Partition" in state.cause)
    assert state.phase == "queued"
    assert message.replace("\\", "") in state.cause


def test_a_limit_on_how_many_jobs_is_no_refusal_for_ever(service: Service) -> None:
    first = service.submitted("sleep 300", account=ACCOUNT, qos=TINY_QOS)
    with pytest.raises(NoRoom, match="submitted again"):
        service.submitted("sleep 300", account=ACCOUNT, qos=TINY_QOS)
    asyncio.run(service.scheduler().cancel(first))
    service.ended(first)
    service.submitted("true", account=ACCOUNT, qos=TINY_QOS)


def test_a_suspended_job_is_neither_running_nor_over(service: Service) -> None:
    job = service.submitted("sleep 300")
    service.running(job)
    service.box.run(LOGIN, ["scontrol", "suspend", job])
    assert service.until(job, lambda state: state.phase != "running").phase == "suspended"
    service.box.run(LOGIN, ["scontrol", "resume", job])
    service.running(job)


def test_a_job_has_the_locale_of_whom_submitted_it(service: Service) -> None:
    service.ended(service.submitted('echo "locale: $LANG ${LC_ALL-unset} $LC_TIME"'))
    log = service.directory / "pilot-1.log"
    until(lambda: log.exists() and "locale: de_DE.UTF-8 unset fr_FR.UTF-8\n" in log.read_text(), "it has the locale")
