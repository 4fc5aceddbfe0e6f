"""The daemon is killed while it submits, and whatever happens to pilots until the next one: each pilot is one job.

It is one of its own daemon, too.
"""

from __future__ import annotations

import pytest

from tests.facility.clusters import ON_BOTH
from tests.facility.conftest import NewFacility
from tests.facility.load import Load, cut_off, twice
from tests.facility.service import SERVABLES, Facility, status, until

pytestmark = [ON_BOTH, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

TIMEOUT_S = 3.0


class Submission:
    """The command that submits jobs, first on a daemon's PATH, that stands still before or after it has done so.

    It does so while there is a file of this name in its directory, and then says in another file that it does.
    """

    def __init__(self, facility: Facility) -> None:
        self.directory = facility.home / "bin"
        self.directory.mkdir()
        submit = facility.cluster.submit
        program = self.directory / submit.name
        program.write_text(
            f"""#!/bin/sh
cd {self.directory}
stand_still() {{
    if [ -e "$1" ]; then touch "still-$1"; fi
    while [ -e "$1" ]; do sleep 0.1; done
}}
cat > script.$$
stand_still before
job=$({submit} "$@" < script.$$)
stand_still after
echo "$job"
"""
        )
        program.chmod(0o755)
        self.variables = {"PATH": f"{self.directory}:{facility.cluster.path}"}

    def hold(self, where: str) -> None:
        """From now on it stands still there."""
        (self.directory / where).touch()

    def let_go(self, where: str) -> None:
        """It goes on."""
        (self.directory / where).unlink()

    def stands_still(self, where: str) -> bool:
        return (self.directory / f"still-{where}").exists()


def killed_while_it_submits(facility: Facility, submission: Submission, where: str) -> str:
    """A daemon that stands still while it submits its first pilot, and is killed there; returns the endpoint."""
    submission.hold(where)
    facility.up(env=submission.variables)
    with facility.client() as client:
        endpoint = facility.want(client, SERVABLES / "spans")
        until(lambda: submission.stands_still(where), "it submits a pilot")
        assert len(status(client).pilots) == 1
    facility.kill("all")
    return endpoint


def test_a_job_submitted_before_the_daemon_could_note_it_is_adopted(new_facility: NewFacility) -> None:
    facility = new_facility()
    submission = Submission(facility)
    endpoint = killed_while_it_submits(facility, submission, "after")
    (job,) = facility.jobs()
    facility.up(env=submission.variables)
    with facility.client() as client:
        facility.wait_ready(client, endpoint)
        assert [pilot.job for pilot in status(client).pilots] == [job]
    assert list(facility.jobs()) == [job]


def test_a_job_that_was_never_submitted_is_given_up_and_cancelled_should_it_come_late(
    new_facility: NewFacility,
) -> None:
    facility = new_facility(scheduler={"timeout_s": TIMEOUT_S})
    submission = Submission(facility)
    endpoint = killed_while_it_submits(facility, submission, "before")
    assert not facility.jobs()
    facility.up()
    with facility.client() as client:
        facility.wait_ready(client, endpoint)
        (pilot,) = status(client).pilots
        assert list(facility.jobs()) == [pilot.job]
        submission.let_go("before")
        (late,) = until(lambda: facility.jobs().keys() - {pilot.job}, "the orphan submits its job")
        until(lambda: late not in facility.jobs(), "it is cancelled")
        assert [each.pilot for each in status(client).pilots] == [pilot.pilot]
        assert list(facility.jobs()) == [pilot.job]


def test_a_job_that_comes_late_but_in_time_is_used(new_facility: NewFacility) -> None:
    facility = new_facility()
    submission = Submission(facility)
    endpoint = killed_while_it_submits(facility, submission, "before")
    facility.up()
    with facility.client() as client:
        (pilot,) = until(lambda: status(client).pilots, "the pilot is adopted")
        until(lambda: status(client).pilots[0].state == "unknown", "nobody knows its job")
        submission.let_go("before")
        facility.wait_ready(client, endpoint)
        assert [each.pilot for each in status(client).pilots] == [pilot.pilot]
    assert len(facility.jobs()) == 1


def test_a_daemon_killed_under_load_loses_nothing(new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"slots": 1}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spans", replicas=2)
        before = {pilot.job for pilot in status(client).pilots}
        load = Load(facility, client, endpoint, 0.1, 0.3)
        for _ in range(60):
            load.send()
        until(load.log.exists, "requests are run")
        facility.kill("all")
        facility.up()
        seen = load.keep(0, 0.0)
        assert seen.answered == 60
        facility.wait_ready(client, endpoint, 2)
        assert {pilot.job for pilot in status(client).pilots} == before
        assert (twice(load.log), cut_off(load.log)) == ([], set())


@pytest.mark.parametrize("happened", ["requeued", "cancelled"])
def test_what_happened_to_a_pilot_while_no_daemon_was_there(new_facility: NewFacility, happened: str) -> None:
    facility = new_facility().up()
    does = {"requeued": facility.cluster.requeue, "cancelled": facility.cluster.cancel}[happened]
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spans")
        (pilot,) = status(client).pilots
        load = Load(facility, client, endpoint, 0.2)
        for _ in range(20):
            load.send()
        until(load.log.exists, "requests are run")
        facility.kill("all")
        does(pilot.job)
        facility.up()
        assert load.keep(0, 0.0).answered == 20
        (after,) = status(client).pilots
        if happened == "cancelled":
            assert after.pilot != pilot.pilot
        else:
            assert (after.pilot, after.job, after.restarts) == (pilot.pilot, pilot.job, 1)
    assert len(facility.jobs()) == 1


def test_two_daemons_of_one_user_leave_each_others_jobs_alone(new_facility: NewFacility) -> None:
    one, other = new_facility().up(), new_facility().up()
    with one.client() as client:
        one.deploy(client, SERVABLES / "spans")
        (first,) = status(client).pilots
    with other.client() as client:
        endpoint = other.deploy(client, SERVABLES / "spans")
        (second,) = status(client).pilots
    assert one.jobs().keys() == {first.job, second.job}
    other.kill("all")
    other.up()
    with other.client() as client:
        other.wait_ready(client, endpoint)
        assert [pilot.job for pilot in status(client).pilots] == [second.job]
    assert one.jobs().keys() == {first.job, second.job}
    other.cli("down")
    until(lambda: one.jobs().keys() == {first.job}, "its own job ends, and no other")
    with one.client() as client:
        assert [pilot.job for pilot in status(client).pilots] == [first.job]
        assert Load(one, client, endpoint, 0.01).keep(4, 1.0).answered
        assert status(client).losses == ()
