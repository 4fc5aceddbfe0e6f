"""A site file that the scheduler, or hpcserve itself, does not accept: what users are told, how often it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.facility.clusters import ON_BOTH, Cluster, Commands
from tests.facility.conftest import NewFacility, facilities
from tests.facility.service import SERVABLES, Facility

pytestmark = pytest.mark.timeout(600)

FAILED, USAGE, TOO_LATE = 1, 2, 6
MOST_TRIES = 3
ANY_QUEUE: dict[str, dict[str, Any]] = {
    f"queues.{name}": {"max_walltime_s": 0, "max_nodes": 0} for name in ("batch", "debug")
}
"""A site file that does not know what its partitions allow."""


@pytest.fixture(autouse=True)
def _no_jobs(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.clear()


@pytest.fixture(scope="module")
def lasting(cluster: Cluster) -> Iterator[Facility]:
    with facilities(cluster) as new_facility:
        yield new_facility()


@pytest.fixture
def never_up(lasting: Facility) -> Iterator[Facility]:
    """One whose site file is tried, and is right again after the test."""
    yield lasting
    if lasting.site.is_dir():
        lasting.site.rmdir()
    lasting.write_site()


def complaint(facility: Facility) -> str:
    """What both the daemon and ``hpcserve site check`` say of the site file."""
    up, check = facility.command("up", "--detach"), facility.command("site", "check")
    assert (up.returncode, check.returncode) == (USAGE, USAGE)
    assert up.stderr == check.stderr
    return up.stderr


def refused(facility: Facility, commands: Commands, field: str, says: str) -> None:
    """The deployment fails with the scheduler's words and with the field, after so many tries as are allowed."""
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=60)
    assert code == FAILED
    shown = facility.told()
    for text in (says, f"correct pilots.{field} in the site file"):
        assert text in said
        assert text in shown
    assert commands.submissions() == MOST_TRIES


@pytest.mark.facility
@pytest.mark.parametrize(
    ("field", "wrong", "says"),
    [
        ("partition", "nowhere", "invalid partition specified: nowhere"),
        ("account", "nobody", "Invalid account or account/partition combination"),
    ],
)
def test_what_slurm_does_not_know_fails_with_the_field_to_correct(
    new_facility: NewFacility, commands: Commands, field: str, wrong: str, says: str
) -> None:
    refused(new_facility(pilots={field: wrong}).up(commands.variables), commands, field, says)


@pytest.mark.parametrize(
    ("cluster", "field", "wrong", "right", "says"),
    [
        pytest.param("slurm", "qos", "nothing", "normal", "Invalid qos specification", marks=pytest.mark.facility),
        ("pbs", "partition", "nosuch", "workq", "Unknown queue"),
    ],
    indirect=["cluster"],
)
def test_a_corrected_site_file_works_after_down_and_up(
    new_facility: NewFacility, commands: Commands, field: str, wrong: str, right: str, says: str
) -> None:
    facility = new_facility(pilots={field: wrong}).up(commands.variables)
    refused(facility, commands, field, says)
    facility.cli("down")
    facility.write_site(pilots={field: right})
    facility.up(commands.variables)
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=60)
    assert code == 0, said
    assert commands.submissions() == MOST_TRIES + 1


@pytest.mark.facility
@pytest.mark.parametrize(
    ("pilots", "says"),
    [
        (
            {"partition": "debug"},
            "pilots.walltime_s: expected ≤ 120, got 600 (queue 'debug')",
        ),
        (
            {"nodes": 9, "launcher": "srun"},
            "pilots.nodes: expected ≤ 4, got 9 (queue 'batch' of site_configs/facility.toml)",
        ),
    ],
)
def test_too_much_for_a_queue_that_the_site_file_knows(never_up: Facility, pilots: dict[str, Any], says: str) -> None:
    never_up.write_site(pilots=pilots)
    assert says in complaint(never_up)


@pytest.mark.facility
@pytest.mark.parametrize(
    ("pilots", "says", "field"),
    [
        ({"partition": "debug"}, "PartitionTimeLimit", "lower pilots.walltime_s"),
        ({"nodes": 9, "launcher": "srun"}, "Partition", "lower pilots.nodes"),
    ],
)
def test_too_much_for_a_queue_that_only_slurm_knows(
    new_facility: NewFacility, commands: Commands, pilots: dict[str, Any], says: str, field: str
) -> None:
    facility = new_facility(pilots=pilots, **ANY_QUEUE).up(commands.variables)
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=5)
    assert code == TOO_LATE
    for text in (says, field):
        assert text in said
        assert text in facility.told()
    assert commands.submissions() == 1


@ON_BOTH
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"[pilots\nwalltime_s = ", "not TOML"),
        (b"\x00\xff\xfe", "cannot read site file"),
        (None, "cannot read site file"),
    ],
)
def test_a_site_file_that_is_none(never_up: Facility, content: bytes | None, says: str) -> None:
    never_up.site.unlink()
    if content is None:
        never_up.site.mkdir()
    else:
        never_up.site.write_bytes(content)
    said = complaint(never_up)
    assert str(never_up.site) in said
    assert says in said
