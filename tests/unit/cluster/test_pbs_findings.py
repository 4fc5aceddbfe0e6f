"""What the answers of PBS's commands say about a site.

The answers of the server and its one queue are recorded ones. Limits of queues and queues that hand jobs on were not
recorded: they stand where pbs_queue_attributes(7B) has them, in the form in which ``resources_assigned`` was seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.cluster import pbs_findings
from hpcserve.cluster.finding import Asked, Finding
from hpcserve.cluster.runner import Answer
from hpcserve.config import Pilots, Queue, Site, read_site
from hpcserve.errors import SchedulerError

DATA = Path(__file__).resolve().parents[2] / "data" / "openpbs-23.06"
SERVER, QUEUES = (json.loads((DATA / f"qstat_{name}.json").read_text()) for name in ("server", "queues"))
SILENT = SchedulerError("qstat did not answer within 30 s")
DOWN = Answer(argv=("qstat", "-B"), exit_code=255, stdout=b"", stderr="qstat: cannot connect to server pbs (errno=111)")


def answer(recording: dict[str, Any], change: tuple[str, str] = ("", "")) -> Answer:
    """A recorded answer, or one in which a text is another one."""
    stdout = recording["stdout"].replace(*change) if change[0] else recording["stdout"]
    assert not change[0] or stdout != recording["stdout"]
    return Answer(argv=tuple(recording["argv"]), exit_code=recording["exit_code"], stdout=stdout.encode(), stderr="")


def queues(**limited: dict[str, Any]) -> Answer:
    """Queues that are enabled and started unless they say otherwise."""
    usual = {"queue_type": "Execution", "enabled": "True", "started": "True"}
    told = {"timestamp": 1795221444, "pbs_version": "23.06.06", "Queue": {k: usual | v for k, v in limited.items()}}
    return Answer(argv=("qstat", "-Q"), exit_code=0, stdout=json.dumps(told).encode(), stderr="")


def site(*, held: dict[str, Queue] | None = None, **pilots: Any) -> Site:
    return msgspec.structs.replace(read_site("pbs"), pilots=Pilots(**pilots), queues=held or {})


def of_queue(asked: Asked, *, held: dict[str, Queue] | None = None, **pilots: Any) -> list[Finding]:
    return list(pbs_findings.queue(site(held=held, **pilots), "workq", asked))


def test_a_server_that_is_as_it_should_be() -> None:
    up, history = pbs_findings.server(answer(SERVER))
    assert up == Finding("PBS", "ok", "pbs, PBS 23.06.06, Active")
    assert history.outcome == "ok"
    assert pbs_findings.default_queue(answer(SERVER)) == "workq"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('"server_state":\t"Active"', '"server_state":\t"Idle"'), "Idle: it may begin no jobs at present"),
        (('"scheduling":\t"True"', '"scheduling":\t"False"'), "scheduling is off, so no job begins at present"),
    ],
)
def test_a_server_that_begins_no_jobs_is_told_of(change: tuple[str, str], told: str) -> None:
    up, _ = pbs_findings.server(answer(SERVER, change))
    assert up.outcome == "warning"
    assert told in up.told


@pytest.mark.parametrize("state", ["Scheduling", "Hot_Start"])
def test_a_server_that_is_about_to_begin_jobs_is_as_it_should_be(state: str) -> None:
    up, _ = pbs_findings.server(answer(SERVER, ('"server_state":\t"Active"', f'"server_state":\t"{state}"')))
    assert up == Finding("PBS", "ok", f"pbs, PBS 23.06.06, {state}")


@pytest.mark.parametrize(
    "change",
    [
        ('"job_history_enable":\t"True"', '"job_history_enable":\t"False"'),
        ('\t\t\t"job_history_enable":\t"True",\n', ""),
    ],
)
def test_history_that_is_off_is_told_and_does_no_harm(change: tuple[str, str]) -> None:
    _, history = pbs_findings.server(answer(SERVER, change))
    assert history.outcome == "ok"
    assert history.told.startswith("off: the server does not tell how a pilot has ended; ")


@pytest.mark.parametrize("asked", [SILENT, DOWN, answer(QUEUES), answer(SERVER, ("}\n}\n", ""))])
def test_a_server_that_does_not_answer_is_no_server(asked: Asked) -> None:
    (down,) = pbs_findings.server(asked)
    assert (down.subject, down.outcome) == ("PBS", "failed")
    assert down.told.endswith("ask the facility, or try again later")
    assert pbs_findings.default_queue(asked) == ""


@pytest.mark.parametrize("asked", [SILENT, DOWN, answer(QUEUES, ("}\n}\n", ""))])
def test_queues_that_nobody_tells_of_fail_the_check(asked: Asked) -> None:
    (found,) = of_queue(asked)
    assert (found.subject, found.outcome) == ("queue", "failed")


def test_the_recorded_queue_takes_a_pilot_by_its_name_and_as_the_default_one() -> None:
    assert of_queue(answer(QUEUES), partition="workq") == [Finding("queue", "ok", "workq, enabled and started")]
    assert of_queue(answer(QUEUES)) == [Finding("queue", "ok", "workq (the default), enabled and started")]


def test_without_a_default_queue_one_must_be_named() -> None:
    (found,) = pbs_findings.queue(site(), "", answer(QUEUES))
    assert found.told == "this server has no default one: set pilots.partition to one of workq"


LIMITED = {
    "resources_max": {"walltime": "01:00:00", "nodect": 10},
    "resources_min": {"walltime": "00:05:00", "nodect": 2},
}


@pytest.mark.parametrize(
    ("queue", "pilots", "told"),
    [
        ({}, {"partition": "none"}, "none: there is no such queue; correct pilots.partition: there are workq"),
        ({"enabled": "False"}, {}, "workq (the default): it takes no jobs (enabled is False)"),
        ({"started": "False"}, {}, "workq (the default): it begins no jobs (started is False)"),
        ({"from_route_only": "True"}, {}, "it takes jobs from other queues only; set pilots.partition to the one"),
        (LIMITED, {"walltime_s": 7200.0, "nodes": 4}, "pilots.walltime_s: expected ≤ 3600, got 7200"),
        (LIMITED, {"walltime_s": 60.0, "nodes": 4}, "pilots.walltime_s: expected ≥ 300, got 60"),
        (LIMITED, {"walltime_s": 600.0, "nodes": 11}, "pilots.nodes: expected ≤ 10, got 11"),
        (LIMITED, {"walltime_s": 600.0, "nodes": 1}, "pilots.nodes: expected ≥ 2, got 1"),
    ],
)
def test_a_queue_that_does_not_take_the_pilots(queue: dict[str, Any], pilots: dict[str, Any], told: str) -> None:
    (found,) = of_queue(queues(workq=queue), launcher="mpiexec", **pilots)
    assert found.outcome == "failed"
    assert told in found.told


def test_a_reservation_is_looked_up_as_the_queue_that_it_is() -> None:
    (found,) = of_queue(queues(workq={}), reservation="R7")
    assert found.told.startswith("R7: there is no such queue")


ROUTED: dict[str, dict[str, Any]] = {
    "prod": {"queue_type": "Route", "route_destinations": "small,large@pbs"},
    "small": {"resources_max": {"nodect": 24, "walltime": "03:00:00"}, "from_route_only": "True"},
    "large": {"resources_min": {"nodect": 100}, "resources_max": {"walltime": "24:00:00"}, "from_route_only": "True"},
}


@pytest.mark.parametrize(
    ("nodes", "walltime_s", "outcome", "told"),
    [
        (10, 3600.0, "ok", "prod, enabled and started, hands on to small, large"),
        (100, 80000.0, "ok", "prod, enabled and started, hands on to small, large"),
        (30, 3600.0, "failed", "prod: none of the queues that it hands on to takes such a job: pilots.nodes: expected"),
    ],
)
def test_a_queue_that_hands_jobs_on_takes_what_one_of_the_others_takes(
    nodes: int, walltime_s: float, outcome: str, told: str
) -> None:
    asked = queues(**ROUTED)
    (found,) = of_queue(asked, partition="prod", nodes=nodes, walltime_s=walltime_s, launcher="mpiexec")
    assert found.outcome == outcome
    assert found.told.startswith(told)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (Queue(max_walltime_s=7200.0), "queues.workq.max_walltime_s: PBS has 3600, the site file 7200; correct the"),
        (Queue(max_nodes=11), "queues.workq.max_nodes: PBS has 10, the site file 11"),
        (Queue(min_nodes=1), "queues.workq.min_nodes: PBS has 2, the site file 1"),
        (Queue(max_running=3), "queues.workq.max_running: PBS has 2, the site file 3"),
        (Queue(max_queued=9), "queues.workq.max_queued: PBS has 8, the site file 9"),
    ],
)
def test_a_site_file_that_allows_more_than_its_queue_is_warned_of(held: Queue, told: str) -> None:
    limits = LIMITED | {"max_run": "[u:PBS_GENERIC=2]", "max_queued": "[u:PBS_GENERIC=8],[p:PBS_GENERIC=20]"}
    fits, *others = of_queue(queues(workq=limits), held={"workq": held}, nodes=2, walltime_s=600.0, launcher="mpiexec")
    assert fits.outcome == "ok"
    assert [each.outcome for each in others] == ["warning"]
    assert others[0].told.startswith(told)


def test_a_site_file_that_allows_less_is_right() -> None:
    held = {"workq": Queue(max_walltime_s=3600.0, min_nodes=2, max_nodes=10, max_running=2)}
    limits = LIMITED | {"max_run": "[u:PBS_GENERIC=2]"}
    assert len(of_queue(queues(workq=limits), held=held, nodes=2, walltime_s=600.0, launcher="mpiexec")) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("01:00:00", 3600.0), ("90:00", 5400.0), ("45", 45.0), ("100:00:01", 360001.0), ("10gb", None), ("", None)],
)
def test_times_are_read_in_all_their_forms(text: str, seconds: float | None) -> None:
    assert pbs_findings.time_s(text) == seconds
