"""The shipped site files of facilities: starting points that are true of the facility, and of hpcserve."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.config import read_site
from hpcserve.replica.gpus import NAMED_IN, share

SITES = Path(__file__).parents[2] / "site_configs"
FACILITIES = ("aurora", "delta", "frontier", "perlmutter", "polaris")


@pytest.mark.parametrize("name", FACILITIES)
def test_each_slot_has_gpus_that_no_other_slot_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch")
    pilots = read_site(name).pilots
    # Where the scheduler names none in a job, the site's setup does.
    exported = dict(line.removeprefix("export ").split("=", 1) for line in pilots.setup if line.startswith("export "))
    named_by = next((each for each in NAMED_IN if each in exported), "CUDA_VISIBLE_DEVICES")
    named = exported.get(named_by, ",".join(map(str, range(pilots.gpus_per_node))))
    environment = {named_by: named}
    seen = [environment | share(environment, mine=(slot,), slots=pilots.slots) for slot in range(pilots.slots)]
    assert ",".join(each[named_by] for each in seen) == named != ""


@pytest.mark.parametrize("name", FACILITIES)
@pytest.mark.parametrize("subject", ["[network]", "partition|qos", "gpus_per_node", "# Modules:", "[containers]"])
def test_what_is_said_of_a_facility_has_its_source_nearby(name: str, subject: str) -> None:
    lines = (SITES / f"{name}.toml").read_text().splitlines()
    wanted = subject.split("|")
    place = next(number for number, line in enumerate(lines) if line.startswith(tuple(wanted)))
    nearby = " ".join(lines[max(0, place - 8) : place + 8])
    assert "Source:" in nearby or "https://" in nearby
