"""What only PBS does to a daemon's pilots. What every scheduler may do to them, tests/facility asks of PBS, too."""

from __future__ import annotations

import numpy as np
import pytest

from tests.facility.load import Load, cut_off, twice
from tests.facility.tallied import all_answered, losses, requests, under_way
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, status, until
from tests.integration.pbs.conftest import NewDaemonOnPbs
from tests.integration.pbs.daemon import LONG_S, only_replica, pilots
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(600)

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


def test_pilots_go_on_serving_over_a_restart_of_the_server(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    daemon = new_daemon_on_pbs(pilots={"max_pilots": 1}).up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "spans")
        (pilot,), replica = pilots(client), only_replica(client)
        load = Load(daemon, client, endpoint, 0.05)
        load.keep(4, 1.0)
        pbs.fault("all", "down")
        until(lambda: daemon.are(client, "unknown"), "it is not known", LONG_S)
        before = load.seen.answered
        assert load.keep(4, 1.0).answered > before, "requests are answered while the server is away"
        pbs.restart()
        until(lambda: daemon.are(client, "running"), lambda: f"it runs: {pilots(client)}", LONG_S)
        load.keep(4, 1.0)
        (after,) = pilots(client)
        assert (after.pilot, after.job, after.restarts) == (pilot.pilot, pilot.job, 0)
        assert only_replica(client) == replica
        assert (losses(client), list(pbs.jobs())) == ({}, [pilot.job])
        assert (twice(load.log), cut_off(load.log)) == ([], set())


def test_a_server_that_was_ended_at_once_puts_pilots_back_and_no_request_is_lost(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs
) -> None:
    daemon = new_daemon_on_pbs(pilots={"max_pilots": 1}).up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally")
        (pilot,), replica = pilots(client), only_replica(client)
        futures = requests(daemon, client, endpoint, 30, 0.1)
        under_way(futures)
        pbs.fault("all", "down")
        until(lambda: daemon.are(client, "unknown"), "it is not known", LONG_S)
        pbs.restart(stopped="immediate")
        all_answered(futures)
        until(lambda: pilots(client)[0].restarts == 1, "it is seen as another run", LONG_S)
        until(lambda: replica in losses(client), "the loss is told of", LONG_S)
        assert losses(client)[replica] == "requeued", "nobody has said anything of a preemption"
        (again,) = pilots(client)
        assert (again.pilot, again.job) == (pilot.pilot, pilot.job)
        assert len(pbs.jobs()) == 1


def test_a_job_that_ends_with_its_node_loses_no_request(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    pbs.set(node_fail_requeue_s=5.0)
    daemon = new_daemon_on_pbs(pilots={"cpus_per_node": 2, "requeue": False}).up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally", replicas=2)
        (pilot, _), replicas = pilots(client), status(client).deployments[0].replicas
        futures = requests(daemon, client, endpoint, 60, 0.1)
        under_way(futures)
        pbs.lose_node(pbs.node_of(pilot.job))
        all_answered(futures)
        (lost,) = (each.replica for each in replicas if each.pilot == pilot.pilot)
        until(lambda: list(losses(client)) == [lost], lambda: f"it is lost: {losses(client)}", LONG_S)
        pbs.reaches(pilot.job, "F")
        until(lambda: pilot.pilot not in {each.pilot for each in pilots(client)}, "the pilot is gone", LONG_S)


def test_a_pilot_that_cannot_be_ended_hides_no_other_and_is_left_alone_when_the_daemon_goes(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs
) -> None:
    """Its node is gone, so PBS cannot have it ended."""
    daemon = new_daemon_on_pbs(pilots={"cpus_per_node": 2}).up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally")
        (lost,) = pilots(client)
        pbs.set(started=False)
        daemon.deploy(client, SERVABLES / "tally", replicas=3)
        until(lambda: len(pbs.jobs()) == 3, "two wait", LONG_S)
        pbs.lose_node(pbs.node_of(lost.job))
        until(lambda: pbs.asked("qdel").count(lost.job) >= 3, "it is to end, and does not", LONG_S)
        pbs.set(started=True)
        daemon.wait_ready(client, endpoint, 3)
        pbs.set(started=False)
        daemon.deploy(client, SERVABLES / "tally", replicas=4)
        until(lambda: len(pbs.jobs()) == 5, "one more waits", LONG_S)
    daemon.down()
    assert {name for name, job in pbs.jobs().items() if job["state"] != "F"} == {lost.job}
