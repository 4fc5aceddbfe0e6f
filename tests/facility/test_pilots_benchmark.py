"""The benchmark of pilots runs, and says what it must say. How fast they are, no test decides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600), pytest.mark.usefixtures("able_machine")]


def test_pilots_are_measured_and_judged(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "pilots", "--quick", "--json"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    start = found["start"]
    assert start["imports_s"]["median"] > 0
    assert start["more_than_imports_s"]["median"] < start["job_start_to_answer_s"]["median"]
    assert found["drain"]["requests"] > 0
    assert found["drain"]["lost"] == found["drain"]["failed"] == found["drain"]["past_the_end"] == 0
    assert found["power_loss"]["answered"] == [found["power_loss"]["in_flight"]]
    assert 0 < found["power_loss"]["worst_noticed_s"] < 60
    listed = found["polling"]["jobs_listed"]
    assert listed["with"] == listed["without"] + 100
    assert 0 < found["polling"]["p50_ms"]["with"] <= found["polling"]["p99_ms"]["with"]
    assert found["reached"].keys() == found["targets"].keys()
    assert all(isinstance(each, bool) for each in found["reached"].values())
