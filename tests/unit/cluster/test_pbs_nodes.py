"""What pbsnodes says about a site: the recorded answer, and nodes in its form that have more."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.cluster.finding import Asked, Finding
from hpcserve.cluster.pbs_nodes import all_are, nodes
from hpcserve.cluster.runner import Answer
from hpcserve.config import Pilots, Site, read_site
from hpcserve.errors import SchedulerError

RECORDED = json.loads((Path(__file__).resolve().parents[2] / "data" / "openpbs-23.06" / "pbsnodes.json").read_text())
ARGV = tuple(RECORDED["argv"])


def site(**pilots: Any) -> Site:
    return msgspec.structs.replace(read_site("pbs"), pilots=Pilots(**{"launcher": "mpiexec", **pilots}))


def told(out: str = RECORDED["stdout"], *, code: int = 0, err: str = "") -> Answer:
    return Answer(argv=ARGV, exit_code=code, stdout=out.encode(), stderr=err)


def machine(**states: str) -> Answer:
    """Nodes of one virtual node each, with GPUs and a resource of the site's."""
    of_site = {"system": "polaris", "disk": "8tb", "filesystems": "home,eagle", "switch": "sw1", "accel": "a100:80"}
    of_site |= {"score": "1.5", "bigmem": "True", "licences": "@login1"}
    available = {"ncpus": 64, "ngpus": 4, "mem": "512gb", **of_site}
    told_of = {
        name: {"state": state, "resources_available": {**available, "host": name}} for name, state in states.items()
    }
    return told(json.dumps({"timestamp": 1, "nodes": told_of}))


THREE = machine(n1="free", n2="job-busy", n3="down,offline")


def test_the_recorded_server_has_one_host_of_four_virtual_nodes() -> None:
    assert nodes(site(cpus_per_node=8, memory_per_node_mib=8192), told()) == Finding(
        "nodes", "ok", "1 of 1 could run a part of a pilot"
    )


@pytest.mark.parametrize(
    ("asked", "pilots", "says"),
    [
        (told(), {"cpus_per_node": 9}, "pilots.cpus_per_node: expected ≤ 8, got 9; correct the site file"),
        (told(), {"gpus_per_node": 1}, "pilots.gpus_per_node: expected ≤ 0, got 1"),
        (told(), {"memory_per_node_mib": 8193}, "pilots.memory_per_node_mib: expected ≤ 8192, got 8193"),
        (told(), {"nodes": 2}, "pilots.nodes: expected ≤ 1, got 2; correct the site file, or pilots wait for ever"),
        (THREE, {"gpus_per_node": 8}, "pilots.gpus_per_node: expected ≤ 4, got 8"),
        (THREE, {"constraint": "system=sophia"}, "no node has system=sophia; nodes have: polaris"),
        (THREE, {"constraint": "ngpus=5"}, "pilots.gpus_per_node: expected ≤ 4, got 5"),
        (THREE, {"constraint": "disk=9tb"}, "pilots.constraint, disk: expected ≤ 8796093022208, got 9895604649984"),
        (THREE, {"nodes": 3}, "3 fit, and 1 of them are down or offline; wait, or ask the facility"),
        (machine(n1="offline"), {}, "1 fit, and 1 of them are down or offline"),
        (machine(n1="free, stale"), {}, "1 fit, and 1 of them are down or offline"),
        (THREE, {"constraint": "score=2.5"}, "pilots.constraint, score: expected ≤ 1.5, got 2.5"),
        (THREE, {"constraint": "bigmem=f"}, "no node has bigmem=f; nodes have: True"),
        (THREE, {"constraint": "bigmem=yes"}, "no node has bigmem=yes; nodes have: True"),
        (THREE, {"constraint": "switch=1"}, "no node has switch=1; nodes have: sw1"),
        (THREE, {"constraint": "accel='h100:80'"}, "no node has accel=h100:80; nodes have: a100:80"),
        (machine(), {}, "pilots.cpus_per_node: expected ≤ 0, got 1"),
    ],
)
def test_what_no_node_can_run_is_said(asked: Asked, pilots: dict[str, Any], says: str) -> None:
    found = nodes(site(**pilots), asked)
    assert found.outcome == "failed"
    assert says in found.told


@pytest.mark.parametrize(
    "pilots",
    [
        {},
        {"nodes": 2},
        {"gpus_per_node": 4, "constraint": "system=polaris"},
        {"constraint": "filesystems=home:mpiprocs=9"},
        {"constraint": "score=0.5:disk=8tb"},
        {"constraint": "bigmem=true:switch=sw1"},
        {"constraint": "bigmem=T"},
        {"constraint": "bigmem=1"},
        {"constraint": "accel='a100:80':system=polaris"},
        {"constraint": 'system="polaris"'},
        {"constraint": "licences=7"},  # which those have to whom the server hands them out
    ],
)
def test_what_two_nodes_can_run_is_right(pilots: dict[str, Any]) -> None:
    assert nodes(site(**pilots), THREE) == Finding("nodes", "ok", "2 of 3 could run a part of a pilot")


def test_a_node_that_does_not_say_so_has_it_not_and_one_word_makes_all_values_words() -> None:
    hosts = {"n1": {"bigmem": "True", "switch": "3"}, "n2": {"bigmem": "False", "switch": "sw2"}, "n3": {}}
    told_of = {n: {"state": "free", "resources_available": {"ncpus": 2, "host": n, **own}} for n, own in hosts.items()}
    asked = told(json.dumps({"timestamp": 1, "nodes": told_of}))
    assert nodes(site(constraint="bigmem=True"), asked).told == "1 of 3 could run a part of a pilot"
    assert nodes(site(constraint="bigmem=False"), asked).told == "2 of 3 could run a part of a pilot"
    assert nodes(site(constraint="switch=3"), asked).told == "1 of 3 could run a part of a pilot"
    assert "no node has switch=2; nodes have: 3, sw2" in nodes(site(constraint="switch=2"), asked).told


def test_all_that_does_not_fit_is_told_at_once() -> None:
    found = nodes(site(cpus_per_node=9999, gpus_per_node=99, nodes=4, constraint="switch=1"), THREE)
    for setting in ("pilots.cpus_per_node: ", "pilots.gpus_per_node: ", "no node has switch=1", "pilots.nodes: "):
        assert setting in found.told


def test_of_nodes_of_which_too_few_have_all_it_is_told_what_each_lacks_up_to_some() -> None:
    few = {f"n{n}": {"ncpus": 2 + 2 * (n == 0), "mem": "8gb" if n else "1gb", "host": f"n{n}"} for n in range(8)}
    told_of = {name: {"state": "free", "resources_available": each} for name, each in few.items()}
    asked = told(json.dumps({"timestamp": 1, "nodes": told_of}))
    found = nodes(site(cpus_per_node=4, memory_per_node_mib=4096), asked)
    assert found.outcome == "failed"
    assert found.told == (
        "0 of 8 have all that pilots ask of each node, and a pilot has 1; n0 lacks mem=4096mb; n1 lacks ncpus=4; "
        "n2 lacks ncpus=4; n3 lacks ncpus=4; n4 lacks ncpus=4; and 3 more lack some; lower pilots.nodes, or what each "
        "is to have"
    )


def test_what_a_site_prints_before_the_answer_is_none_of_it() -> None:
    assert not isinstance(THREE, SchedulerError)
    behind = dataclasses.replace(THREE, stdout=b"*** Maintenance on Monday ***\n" + THREE.stdout)
    assert nodes(site(), behind) == nodes(site(), THREE)


@pytest.mark.parametrize("constraint", ["arm=True", "tiles=2"])
def test_what_no_node_tells_of_is_a_warning(constraint: str) -> None:
    found = nodes(site(constraint=constraint), THREE)
    assert found.outcome == "warning"
    assert f"no node tells of {constraint.partition('=')[0]}; pilots may wait for ever" in found.told


@pytest.mark.parametrize(
    "asked",
    [
        SchedulerError("pbsnodes did not answer within 30 s"),
        told("", code=159, err="pbsnodes: Unauthorized Request"),
        told("hello"),
        told('{"timestamp": 1, "nodes": []}'),
        told('{"timestamp": 1, "nodes": {"n1": 3}}'),
    ],
)
def test_an_answer_that_is_none_is_a_warning_alone(asked: Asked) -> None:
    found = nodes(site(), asked)
    assert found.outcome == "warning"
    assert found.told.startswith("not compared with what pilots ask for: ")


@pytest.mark.parametrize(
    ("host", "names", "here"),
    [
        ("a", ["a"], True),
        ("a.x.org", ["a"], True),
        ("a", ["a.x.org"], True),
        ("a.x.org", ["a.x.org", "a"], True),
        ("a.x.org", ["a.y.org"], False),
        ("a", ["a.x.org", "a.y.org"], False),
        ("a", ["a", "b"], False),
        ("a", ["ab"], False),
        ("a", [], False),
    ],
)
def test_all_nodes_are_this_host_where_their_names_are_its_own(host: str, names: list[str], *, here: bool) -> None:
    assert all_are(host, machine(**dict.fromkeys(names, "free"))) is here


@pytest.mark.parametrize("asked", [SchedulerError("pbsnodes did not answer within 30 s"), told("hello")])
def test_where_pbsnodes_does_not_tell_nobody_says_where_nodes_are(asked: Asked) -> None:
    with pytest.raises(SchedulerError):
        all_are("a", asked)
