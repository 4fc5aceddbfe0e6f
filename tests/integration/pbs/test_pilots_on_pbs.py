"""A daemon whose pilots are jobs of the stand-in for PBS: whatever becomes of them, no request is lost."""

from __future__ import annotations

import numpy as np
import pytest

from tests.facility.tallied import all_answered, losses, requests, under_way
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, status, until
from tests.integration.pbs.conftest import NewDaemonOnPbs
from tests.integration.pbs.daemon import LONG_S, only_replica, pilots
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(240)

ONE = np.ones(1, np.float32)


def test_a_deployment_answers_from_jobs_whatever_their_ids(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    pbs.set(next=9_999_999)
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, EXAMPLES / "echo")
        pbs.set(next=7)
        daemon.deploy(client, EXAMPLES / "echo", replicas=2)
        daemon.wait_ready(client, endpoint, 2)
        until(lambda: daemon.are(client, "running", "running"), "PBS has told of them", LONG_S)
        assert client.infer(f"{endpoint}.echo", ONE, timeout_s=60)["x"] == 1
        assert {each.job for each in pilots(client)} == pbs.jobs().keys()
        logs = [daemon.shared / "logs" / f"{each.pilot}.log" for each in pilots(client)]
        assert {log.stat().st_mode & 0o777 for log in logs} == {0o600}, "what a job writes is its user's alone"
    daemon.down()
    until(lambda: all(each["state"] == "F" for each in pbs.jobs().values()), "no job is left", LONG_S)


@pytest.mark.parametrize("how", ["requeue", "restart"])
def test_a_requeued_pilot_is_the_same_one_once_more(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs, how: str
) -> None:
    daemon = new_daemon_on_pbs(pilots={"max_pilots": 1}).up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally")
        (pilot,), replica = pilots(client), only_replica(client)
        futures = requests(daemon, client, endpoint, 30, 0.1)
        under_way(futures)
        if how == "requeue":
            pbs.requeue(pilot.job)
        else:
            pbs.fault("all", "down")
            until(lambda: daemon.are(client, "unknown"), "it is not known", LONG_S)
            pbs.restart()
        all_answered(futures)
        until(lambda: pilots(client)[0].restarts == 1, "it is seen as another run", LONG_S)
        until(lambda: replica in losses(client), "the loss is told of", LONG_S)
        (again,) = pilots(client)
        assert (again.pilot, again.job) == (pilot.pilot, pilot.job)
        assert len(pbs.jobs()) == 1


@pytest.mark.parametrize("then", ["queued again", "ended"])
def test_a_lost_node_loses_no_request(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs, then: str) -> None:
    pbs.set(node_fail_requeue_s=5.0)
    daemon = new_daemon_on_pbs(pilots={"cpus_per_node": 2, "requeue": then == "queued again"}).up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally", replicas=2)
        (pilot, _), replicas = pilots(client), status(client).deployments[0].replicas
        futures = requests(daemon, client, endpoint, 60, 0.1)
        under_way(futures)
        pbs.lose_node(pbs.node_of(pilot.job))
        all_answered(futures)
        (lost,) = (each.replica for each in replicas if each.pilot == pilot.pilot)
        until(lambda: list(losses(client)) == [lost], lambda: f"it is lost: {losses(client)}", LONG_S)
        if then == "queued again":
            assert losses(client) == {lost: "node failed"}
        else:
            pbs.reaches(pilot.job, "F")
            until(lambda: pilot.pilot not in {each.pilot for each in pilots(client)}, "the pilot is gone", LONG_S)


def test_a_suspended_pilot_has_its_work_done_by_another(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally")
        (pilot,) = pilots(client)
        futures = requests(daemon, client, endpoint, 40, 0.05)
        under_way(futures)
        pbs.suspend(pilot.job)
        all_answered(futures)
        until(lambda: daemon.are(client, "running", "suspended"), "PBS says that it is", LONG_S)
        pbs.resume(pilot.job)
        until(lambda: daemon.are(client, "running", "running"), "it runs again", LONG_S)
        all_answered(requests(daemon, client, endpoint, 10, 0.0))


@pytest.mark.parametrize("how", ["daemon", "submission"])
def test_a_killed_daemon_finds_its_pilots_again(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs, how: str) -> None:
    daemon = new_daemon_on_pbs(pilots={"orphan_s": 120.0}).up()
    with daemon.client() as client:
        if how == "daemon":
            endpoint = daemon.serve(client, SERVABLES / "tally", replicas=2)
        else:  # it is killed before qsub has said the job's id
            pbs.fault("qsub", "silent")
            endpoint = daemon.deploy(client, SERVABLES / "tally")
            until(lambda: len(pbs.jobs()) == 1, "the job is taken", LONG_S)
        before = set(pbs.jobs())
        daemon.kill("supervisor")
        pbs.mend()
        futures = requests(daemon, client, endpoint, 20, 0.0)
        daemon.up()
        all_answered(futures)
        daemon.wait_ready(client, endpoint, len(before))
        until(lambda: {each.job for each in pilots(client)} == before, "they are adopted", LONG_S)
        assert set(pbs.jobs()) == before
        assert status(client).losses == ()
