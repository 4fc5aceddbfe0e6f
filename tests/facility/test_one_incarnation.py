"""Of a pilot only one run counts: a second one, and what is left of the one before, are refused and end."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hpcserve.errors import OutcomeUnknown
from hpcserve.wire import exits
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.clusters import ON_BOTH, Cluster
from tests.facility.conftest import NewFacility
from tests.facility.load import Load, runs
from tests.facility.service import SERVABLES, status, until

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

LONG_S = 100.0


@ON_BOTH
def test_a_second_job_of_the_same_pilot_is_refused(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"max_pilots": 1}).up()
    with facility.client() as client:
        with cluster.nothing_begins():
            endpoint = facility.want(client, SERVABLES / "spans")
            (job,) = until(facility.jobs, "the pilot is submitted")
            (enrolment,) = until(lambda: list((facility.shared / "enrolments").iterdir()), "its enrolment is there")
            kept = shutil.copy2(enrolment, facility.home / "kept")
            script = cluster.script_of(job)
        facility.wait_ready(client, endpoint)
        until(lambda: not enrolment.read_bytes(), "its enrolment is used up")
        twin = facility.home / "twin.sh"
        twin.write_text(script)
        assert cluster.exit_code(twin) == exits.REFUSED
        log = facility.logs / f"{enrolment.name.partition('.')[0]}.log"
        assert "is used up: another run of this pilot was enrolled by it" in log.read_text()
        assert "the daemon refuses this pilot" not in log.read_text()
        shutil.copy2(kept, enrolment)
        assert cluster.exit_code(twin) == exits.REFUSED
        assert "the daemon refuses this pilot" in log.read_text()
        load = Load(facility, client, endpoint, 0.01)
        assert load.keep(4, 1.0).answered
        (replica,) = {replica for _, replica, _ in runs(load.log)["begin"]}
        (pilot,) = status(client).pilots
        assert (pilot.job, pilot.replicas) == (job, 1)
        assert [each.replica for each in status(client).deployments[0].replicas] == [replica]


def agents(box: Box, node: str) -> list[str]:
    return box.run(node, ["pgrep", "-f", "hpcserve.pilot "], check=False).stdout.split()


@pytest.mark.facility
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut off", "connected"])
def test_the_run_before_a_requeue_is_fenced(box: Box, new_facility: NewFacility, is_cut: bool) -> None:  # noqa: FBT001
    """Its slurmd is dead, so nobody but the daemon can tell it to end."""
    facility = new_facility(pilots={"max_pilots": 1, "requeue": True}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally")
        (pilot,) = status(client).pilots
        tally = facility.home / "ran"
        again = [
            client.submit(f"{endpoint}.again", np.int64(n), parameters={"log": str(tally), "sleep_s": 1.0})
            for n in range(8)
        ]
        once = [
            client.submit(
                f"{endpoint}.once", np.int64(n), parameters={"log": str(tally), "tag": "once", "sleep_s": 1.0}
            )
            for n in range(8, 16)
        ]
        until(tally.exists, "requests are run")
        slurmd = (box.directory / "run" / f"slurmd-{pilot.host}.pid").read_text().strip()
        box.run(pilot.host, ["kill", "-KILL", slurmd])
        if is_cut:
            box.cut(pilot.host)
        box.run(LOGIN, ["scontrol", "update", f"NodeName={pilot.host}", "State=DOWN", "Reason=test"])
        until(lambda: status(client).pilots[0].restarts == 1, "it is requeued", LONG_S)
        facility.wait_ready(client, endpoint)
        (after,) = status(client).pilots
        assert (after.pilot, after.job) == (pilot.pilot, pilot.job)
        assert after.host != pilot.host
        assert agents(box, pilot.host) or not is_cut
        box.mend(pilot.host)
        until(lambda: not agents(box, pilot.host), "the first agent ends")
        assert "the daemon refuses this pilot" in Path(facility.logs / f"{pilot.pilot}.log").read_text()
        assert [int(future.result(LONG_S)["n"]) for future in again] == list(range(8))
        unknown = {n for n, future in enumerate(once, 8) if isinstance(future.exception(LONG_S), OutcomeUnknown)}
        assert all(int(future.result()["n"]) == n for n, future in enumerate(once, 8) if n not in unknown)
        lines = [line.split()[0] for line in tally.read_text().splitlines() if line.startswith("once")]
        assert len(lines) == len(set(lines)), "what must not run twice did not"
        assert {f"once{n}" for n in range(8, 16) if n not in unknown} <= set(lines)
    box.power_off(pilot.host)
    box.power_on(pilot.host)
