"""The limits that a controller begins with are those of the site, and what a queue leaves for pilots."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.config import load_site
from hpcserve.daemon.controller.books import fleet_of

LAB = """
base = "slurm"
[network]
host = "lo"
[pilots]
partition = "batch"
qos = "normal"
max_pilots = 9
[daemon]
placement = "{placement}"
{daemons}
[queues.batch]
max_running = 4
max_queued = 3
[queues.normal]
max_running = 5
max_queued = 8
"""


@pytest.mark.parametrize(
    ("placement", "daemons", "running", "queued"),
    [
        ("login", 'partition = "batch"', 4, 3),
        ("job", 'partition = "shared"', 4, 3),
        ("job", 'partition = "batch"', 3, 2),
        ("job", 'qos = "normal"', 4, 3),
        ("job", 'partition = "batch"\nqos = "normal"', 3, 2),
    ],
)
def test_the_job_of_the_daemon_takes_one_of_what_its_queue_allows(
    tmp_path: Path, placement: str, daemons: str, running: int, queued: int
) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(LAB.format(placement=placement, daemons=daemons))
    policy = fleet_of(load_site(str(path))).policy
    assert (policy.most_pilots, policy.max_running, policy.max_queued) == (running, running, queued)
