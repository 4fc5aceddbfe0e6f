"""Which part of a pilot's log one run of its job printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.cluster.script import begins
from hpcserve.cluster.seam import own_log
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.printed import MOST_BYTES, printed
from tests.unit.daemon.scheduler_stage import Cluster, P, play

PREEMPTED = "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T19:02:11 DUE TO PREEMPTION ***\n"
FIRST, SECOND = f"{begins(0)}\nenrolled\n{PREEMPTED}", f"{begins(1)}\nenrolled again\n"


@pytest.mark.parametrize(
    ("log", "run", "expected"),
    [
        (FIRST, 0, f"enrolled\n{PREEMPTED}"),
        (FIRST, 1, ""),
        (FIRST + SECOND, 0, f"enrolled\n{PREEMPTED}"),
        (FIRST + SECOND, 1, "enrolled again\n"),
        (FIRST + SECOND, 2, ""),
        (f"{FIRST}{begins(2)}\nthe second did not begin\n", 0, f"enrolled\n{PREEMPTED}"),
        ("no line says it\n" + SECOND, 0, "no line says it\n"),
        ("x" * MOST_BYTES + "\nend\n", 0, "x" * 4091 + "\nend\n"),
        ("", 0, ""),
    ],
)
def test_each_run_has_its_own_part(tmp_path: Path, log: str, run: int, expected: str) -> None:
    path = tmp_path / "log"
    path.write_text(log)
    assert printed(path, run) == expected


def test_where_no_script_wrote_a_log_the_scheduler_may_have_said_why(tmp_path: Path) -> None:
    own_log(tmp_path / "log").write_text("hpcserve: n1 cannot write to /x/log: does it see the site's shared_dir?\n")
    assert printed(tmp_path / "log", 0).startswith("hpcserve: n1 cannot write")
    assert printed(tmp_path / "log", 1) == ""
    (tmp_path / "log").write_text("begun\n")
    assert printed(tmp_path / "log", 0) == "begun\n"


def test_without_a_log_nothing_was_printed(tmp_path: Path) -> None:
    assert printed(tmp_path / "log", 0) == ""
    (tmp_path / "file").touch()
    assert printed(tmp_path / "file" / "log", 0) == "", "it cannot be read"


def test_another_controller_knows_as_well_what_is_of_which_incarnation(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        log = tmp_path / "shared" / "logs" / f"{P}.log"
        log.write_text(FIRST)
        assert "PREEMPTION" in pilots.output(P, 0)
        await pilots.requeued(P, 1)
        assert pilots.output(P, pilots.jobs[P].row.restarts) == ""
        nexts = Pilots(pilots._site, cluster, pilots._storage, tmp_path / "record")
        await nexts.recover()
        assert nexts.output(P, nexts.jobs[P].row.restarts) == ""
        log.write_text(FIRST + SECOND)
        assert nexts.output(P, nexts.jobs[P].row.restarts) == "enrolled again\n"

    play(tmp_path, scene)
