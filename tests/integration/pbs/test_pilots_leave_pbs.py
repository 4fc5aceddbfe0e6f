"""Pilots on the stand-in for PBS that come to an end, by their walltime or by others: no request is lost."""

from __future__ import annotations

import pytest

from tests.facility.load import Load, cut_off, twice
from tests.facility.tallied import all_answered, losses, requests, under_way
from tests.integration.daemon_tree import SERVABLES, status, until
from tests.integration.pbs.conftest import NewDaemonOnPbs
from tests.integration.pbs.daemon import LONG_S, only_replica, pilots
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(240)

WALLTIME_S = 25.0
ONE_GENERATION_S = 20.0


def test_pilots_hand_over_before_their_walltime_and_lose_nothing(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs
) -> None:
    daemon = new_daemon_on_pbs(pilots={"walltime_s": WALLTIME_S, "max_pilots": 1}).up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "spans")
        load = Load(daemon, client, endpoint, 0.1, 0.2, 0.5)
        seen = load.keep(8, 1.5 * ONE_GENERATION_S)
        assert len(set(seen.jobs.values())) >= 2
        assert (twice(load.log), cut_off(load.log)) == ([], set())
        assert status(client).losses == ()
        ended = [pbs.reaches(min(seen.jobs.values()), "F")]
        assert [each["exit_status"] for each in ended] == [0], "it left before PBS would have ended it"


@pytest.mark.parametrize("history", ["kept", "off"])
def test_a_pilot_that_somebody_deletes_is_replaced(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs, history: str
) -> None:
    pbs.set(history=history == "kept")
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        endpoint = daemon.serve(client, SERVABLES / "tally")
        (pilot,), replica = pilots(client), only_replica(client)
        futures = requests(daemon, client, endpoint, 30, 0.1)
        under_way(futures)
        options = () if history == "kept" else ("-x",)
        assert pbs.run("qdel", *options, pilot.job).returncode == 0
        all_answered(futures)
        until(lambda: pilot.pilot not in {each.pilot for each in pilots(client)}, "it is gone", 120.0)
        kind = losses(client)[replica]
        assert kind == "cancelled" if history == "kept" else kind not in {"", "completed"}


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
