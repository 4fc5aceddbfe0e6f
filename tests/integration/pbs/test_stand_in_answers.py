"""The stand-in for PBS answers as an OpenPBS 23.06 server did: each recorded question has the recorded answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pbs_stand_in import words
from tests.integration.daemon_tree import until
from tests.integration.pbs.server import PbsServer
from tests.integration.pbs.shapes import mutations, shape

NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "data" / "openpbs-23.06").iterdir())

# What a user's login has, and the recording's had.
LOGIN = {"LOGNAME": "pbsuser", "MAIL": "/var/mail/pbsuser", "SHELL": "/bin/bash", "PATH": "/opt/pbs/bin:/usr/bin:/bin"}

NEVER = 3600.0
SLOWER = ("sleep 2\n", "sleep 300\n")
"""What is asked of the array is asked while it runs, however slowly."""


class Story:
    """Asks what was recorded, in an order in which the answers come about."""

    def __init__(self, recordings: Path, place: Path) -> None:
        self.recordings = recordings
        self.answers: dict[str, dict[str, Any]] = {}
        self.servers = [PbsServer(place / name, host="pbs", user="pbsuser") for name in ("one", "other")]

    def ask(self, server: PbsServer, *names: str) -> None:
        for name in names:
            asked = json.loads((self.recordings / f"{name}.json").read_text())
            stdin = (asked["stdin"] or "").replace(*SLOWER) if name == "qsub_array" else asked["stdin"] or ""
            done = server.run(*asked["argv"], stdin=stdin, environment=LOGIN)
            self.answers[name] = {"exit_code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def tell(self) -> None:
        one, other = self.servers
        other.set(next=9, prerun_s=NEVER)
        self.ask(other, "qsub_fail")
        other.reaches("9.pbs", "F")
        other.set(prerun_s=0.0)
        self.ask(other, "qsub_walltime")

        one.set(next=2, prerun_s=NEVER)
        self.ask(one, "qsub_ok", "qstat_running")
        others = [one.submit("sleep 300", "-l", f"select={n}:ncpus=2") for n in (1, 2)]
        self.ask(one, "qsub_ok_queued", "qsub_held", "qstat_queued", "qstat_held", "qstat_T_estimated_start")
        one.set(prerun_s=0.0)
        until(lambda: one.jobs()["2.pbs"]["substate"] == 42, "the job is told of as running", within_s=60)
        self.ask(one, "qstat_all_bulk", "qstat_bulk_one_unknown", "qstat_unknown", "qstat_version")
        self.ask(one, "qsub_bad_queue", "qsub_bad_resource", "qsub_bad_walltime")
        self.ask(one, "qdel_ok", "qdel_running", "qdel_unknown")
        for name in ("2.pbs", *others):
            one.run("qdel", name)
        for name in ("2.pbs", *others):
            one.reaches(name, "F")
        self.ask(one, "qstat_finished_deleted")

        other.reaches("10.pbs", "F")
        self.ask(other, "qstat_finished_exit7", "qstat_finished_without_x", "qdel_finished", "qstat_finished_walltime")
        other.set(prerun_s=NEVER)
        self.ask(other, "qsub_array", "qstat_array", "qstat_array_subjobs", "pbsnodes", "qstat_queues", "qstat_server")
        one.reaches("5.pbs", "F")
        self.ask(one, "qstat_finished_ok")


@pytest.fixture(scope="module")
def answers(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    story = Story(recordings, tmp_path_factory.mktemp("pbs"))
    try:
        story.tell()
        yield story.answers
    finally:
        for each in story.servers:
            each.close()


@pytest.mark.parametrize("name", NAMES)
def test_each_recorded_question_has_the_recorded_answer(
    name: str, recordings: Path, answers: dict[str, dict[str, Any]]
) -> None:
    recorded = json.loads((recordings / f"{name}.json").read_text())
    answer = answers[name]

    assert answer["exit_code"] == recorded["exit_code"], answer["stderr"]
    assert answer["stderr"] == recorded["stderr"]
    if "json" in recorded["argv"]:
        assert shape(json.loads(answer["stdout"])) == shape(json.loads(recorded["stdout"]))
    else:
        assert answer["stdout"] == recorded["stdout"]


def test_the_comparison_sees_each_thing_that_can_be_wrong(recordings: Path) -> None:
    seen = 0
    for name in NAMES:
        recorded = json.loads((recordings / f"{name}.json").read_text())
        if "json" not in recorded["argv"]:
            continue
        answer = json.loads(recorded["stdout"])
        for what, wrong in mutations(answer):
            seen += 1
            assert shape(wrong) != shape(answer), f"{name}: {what}"
    assert seen > 1000


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("qstat_", "pbsnodes"))])
def test_json_is_written_to_the_tab_as_recorded(name: str, recordings: Path) -> None:
    recorded = json.loads((recordings / f"{name}.json").read_text())
    if "json" in recorded["argv"]:
        assert words.as_json(json.loads(recorded["stdout"])) + "\n" == recorded["stdout"]
