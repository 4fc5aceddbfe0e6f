"""What the adapter says of jobs that others end on a real Slurm: preemption, a lost node, too much memory."""

from __future__ import annotations

import asyncio
import sys

import pytest

from hpcserve.cluster.evidence import evidence
from tests.facility.adapter import Service
from tests.facility.box.host import until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]


def test_preemption_puts_a_job_back_and_it_begins_once_more(service: Service) -> None:
    job = service.submitted("sleep 300", partition="preempt", nodes=4, exclusive=True)
    assert service.running(job).restarts == 0
    urgent = service.submitted("sleep 300", partition="batch", nodes=4, exclusive=True)
    waiting = service.until(job, lambda state: state.phase == "queued")
    assert (waiting.restarts, waiting.former_end) == (1, service.told("preempted"))
    service.running(urgent)
    asyncio.run(service.scheduler().cancel(urgent))
    assert service.running(job).restarts == 1


def test_preemption_ends_a_job_that_may_not_be_requeued(service: Service) -> None:
    job = service.submitted("sleep 300", partition="preempt", nodes=4, exclusive=True, requeue=False)
    service.running(job)
    service.submitted("sleep 300", partition="batch", nodes=4, exclusive=True)
    assert service.ended(job).end == "preempted"


@pytest.mark.parametrize("requeue", [False, True])
def test_a_lost_node_ends_its_job_or_puts_it_back(service: Service, requeue: bool) -> None:  # noqa: FBT001  a case
    job = service.submitted("sleep 300", requeue=requeue)
    node = service.running(job).host
    service.box.power_off(node)
    try:
        if requeue:
            state = service.until(job, lambda state: state.restarts == 1, within_s=110)
            assert state.phase in {"queued", "running"}
            assert state.former_end == service.told("node failed")
        else:
            assert service.ended(job, within_s=110).end == "node failed"
    finally:
        service.box.power_on(node)


def test_a_job_that_uses_too_much_memory_is_said_to_have_been_killed(service: Service) -> None:
    hungry = f"exec {sys.executable} -c 'import time; hoard = bytearray(10**9); time.sleep(300)'"
    state = service.ended(service.submitted(hungry, memory_per_node_mib=100))
    assert (state.end, state.exit_code) in {("failed", -9), ("out of memory", 0)}
    assert "launch" not in state.cause
    log = service.directory / "pilot-1.log"
    until(lambda: evidence(log.read_text())[0] == "out of memory", "the job's output says why")
