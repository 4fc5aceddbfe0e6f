"""The shipped site files of facilities: starting points that are true of the facility, and of hpcserve."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.config import Site, own_queues, read_site
from hpcserve.daemon.controller.shaping import bounds_of
from hpcserve.errors import ConfigError
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


POLARIS = 'base = "polaris"\n[pilots]\naccount = "a"\n'


def own_site(place: Path, text: str) -> Site:
    place.write_text(text)
    return read_site(str(place))


def test_pilots_on_polaris_are_held_to_what_their_queue_wants(tmp_path: Path) -> None:
    place = tmp_path / "mine.toml"
    told = r"pilots.nodes: expected ≥ 10, got 1 \(queue 'prod'\)"
    with pytest.raises(ConfigError, match=told):
        own_site(place, f'{POLARIS}partition = "prod"\n')
    large = own_site(place, f'{POLARIS}partition = "prod"\nnodes = 20\nmin_nodes = 10\n')
    assert bounds_of(large).min_nodes == 10
    alone = own_site(place, f'{POLARIS}partition = "debug-scaling"\n')
    assert [(queue.max_running, queue.max_queued) for queue in own_queues(alone)] == [(1, 1)]


def test_pilots_on_aurora_that_their_queue_would_not_take_are_refused(tmp_path: Path) -> None:
    short = 'base = "aurora"\n[network]\nhost = "lo"\n[pilots]\naccount = "a"\nwalltime_s = 60\n'
    with pytest.raises(ConfigError, match=r"pilots.walltime_s: expected ≥ 300, got 60 \(queue 'prod' of site_configs"):
        own_site(tmp_path / "mine.toml", short)


@pytest.mark.parametrize("name", FACILITIES)
@pytest.mark.parametrize("subject", ["[network]", "partition|qos", "gpus_per_node", "# Modules:", "[containers]"])
def test_what_is_said_of_a_facility_has_its_source_nearby(name: str, subject: str) -> None:
    lines = (SITES / f"{name}.toml").read_text().splitlines()
    wanted = subject.split("|")
    place = next(number for number, line in enumerate(lines) if line.startswith(tuple(wanted)))
    nearby = " ".join(lines[max(0, place - 8) : place + 8])
    assert "Source:" in nearby or "https://" in nearby
