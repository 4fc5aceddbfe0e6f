"""Pilots on the stand-in for PBS that end as only jobs of PBS do: no request is lost."""

from __future__ import annotations

import pytest

from tests.facility.load import Load, cut_off, twice
from tests.facility.tallied import all_answered, losses, requests, under_way
from tests.integration.daemon_tree import SERVABLES, status, until
from tests.integration.pbs.conftest import NewDaemonOnPbs
from tests.integration.pbs.daemon import LONG_S, only_replica, pilots
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(600)


def test_a_pilot_that_somebody_deletes_drains_and_loses_nothing(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs
) -> None:
    pbs.set(kill_delay_s=60.0)
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "spans")
        (pilot,), replica = pilots(client), only_replica(client)
        load = Load(daemon, client, endpoint, 0.1, 0.5, 1.0)
        load.keep(8, 2.0)
        assert pbs.run("qdel", pilot.job).returncode == 0
        seen = load.keep(8, 5.0)
        assert seen.answered
        job = pbs.reaches(pilot.job, "F")
        assert (twice(load.log), cut_off(load.log)) == ([], set())
        assert job["exit_status"] == 0, "the agent ended by itself"
        (drained,) = until(lambda: status(client).losses, "what became of its replica is told", LONG_S)
        assert (drained.replica, drained.kind, drained.drained) == (replica, "cancelled", True)


def test_a_pilot_that_is_deleted_with_its_history_is_replaced(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs
) -> None:
    pbs.set(history=False, kill_delay_s=0.0)
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally")
        (pilot,), replica = pilots(client), only_replica(client)
        futures = requests(daemon, client, endpoint, 30, 0.1)
        under_way(futures)
        assert pbs.run("qdel", "-x", pilot.job).returncode == 0
        all_answered(futures)
        until(lambda: pilot.pilot not in {each.pilot for each in pilots(client)}, "it is gone", 120.0)
        assert losses(client)[replica] not in {"", "completed"}


def test_output_that_cannot_be_delivered_holds_up_nobody(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    pbs.set(exiting_s=3600.0, delivers=False)
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally")
        (pilot,) = pilots(client)
        futures = requests(daemon, client, endpoint, 30, 0.1)
        under_way(futures)
        pbs.run("qdel", pilot.job)
        pbs.reaches(pilot.job, "E")
        all_answered(futures)
        until(lambda: len(pilots(client)) == 2, "the first is not over, and another serves", LONG_S)
        pbs.set(exiting_s=0.0)
        until(lambda: pilot.pilot not in {each.pilot for each in pilots(client)}, "it is over", LONG_S)
