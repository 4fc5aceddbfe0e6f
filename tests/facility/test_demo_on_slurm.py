"""``make demo-slurm``: what a newcomer sees of hpcserve on a real Slurm."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN

pytestmark = pytest.mark.facility

DEMO_S = 240.0


@pytest.mark.timeout(DEMO_S + 60)
def test_the_demo_is_served_by_the_nodes_and_leaves_no_job(box: Box) -> None:
    home = box.directory / "home"
    variables = {"HPCSERVE_HOME": str(home), "XDG_CACHE_HOME": str(box.directory / "cache")}
    demo = [str(Path(sys.executable).with_name("hpcserve")), "demo", "--site", "facility", "--json"]
    told = box.run(LOGIN, demo, env=variables, timeout_s=DEMO_S)
    findings = json.loads(told.stdout)
    assert findings["recovery"]["answered"] == findings["recovery"]["submitted"]
    assert findings["pi"]["correct"]
    assert (findings["left_running"], findings["left_queued"]) == (0, 0)
    assert box.run(LOGIN, ["squeue", "--noheader"]).stdout == ""
    jobs = box.run(LOGIN, ["sacct", "--noheader", "--allocations", "--format=NodeList"]).stdout.split()
    assert set(jobs) <= {f"node{index}" for index in range(1, 5)}
    assert jobs
    assert not list((home / "sites" / "facility" / "shared").iterdir())
