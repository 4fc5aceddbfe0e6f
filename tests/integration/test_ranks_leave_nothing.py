"""Nothing that a rank has started outlives it, nor keeps its launcher waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from hpcserve.replica.sweep import NAME
from hpcserve.wire.launch import GROUP, NO_TOPOLOGY_FILE
from tests.integration.agent_rig import gone
from tests.integration.rank_rig import Group

SERVABLE = """name = "leaver"
loader = "python"
entry = "model:Model"
[ranks]
size = 2
compute = "collective"
"""
CODE = """
import os, subprocess
from pathlib import Path
from hpcserve import Tensor, method

class Model:
    def setup(self, context):
        nothing = {"PATH": os.environ["PATH"]}
        for more in ({}, {"start_new_session": True}, {"env": nothing}, {"env": nothing, "start_new_session": True}):
            self._note(subprocess.Popen(["sleep", "600"], **more).pid)
        told = ["sh", "-c", "sleep 600 >/dev/null & echo $!"]  # it leaves its parent, too
        self._note(int(subprocess.run(told, start_new_session=True, stdout=subprocess.PIPE).stdout))
        (Path(os.environ["NOTES"]) / f"setup-{context.rank}").write_text(str(os.getpid()))
        (Path(os.environ["NOTES"]) / f"sees-{context.rank}").write_text(os.environ.get("HWLOC_XMLFILE", "none"))

    def _note(self, pid):
        (Path(os.environ["NOTES"]) / f"helper-{pid}").touch()

    @method(inputs={}, outputs={"none": Tensor("int64", [])})
    def nothing(self):
        return 0
"""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    (tmp_path / "servable.toml").write_text(SERVABLE)
    (tmp_path / "model.py").write_text(CODE)
    made = Group(str(tmp_path), tmp_path, size=2, variables={GROUP: uuid.uuid4().hex, **NO_TOPOLOGY_FILE})
    yield made
    made.close()


@pytest.mark.parametrize("how", ["in order", "rank 0 killed", "rank 1 killed", "launcher told to end"])
def test_what_a_servable_has_started_ends_with_its_ranks_and_so_does_their_launcher(group: Group, how: str) -> None:
    group.ready()
    helpers = [int(each.name.partition("-")[2]) for each in group.notes.glob("helper-*")]
    assert len(helpers) == 10, "each rank has started five"
    seen = [each.read_text() for each in group.notes.glob("sees-*")]
    assert seen == ["none", "none"], "what is for the launcher alone is not there any more"
    match how:
        case "in order":
            assert group.end() == 0
        case "launcher told to end":
            group.process.send_signal(signal.SIGTERM)
            group.ended()
        case _:
            os.kill(group.pids()[int(how.split()[1])], signal.SIGKILL)
            group.gone()
    for pid in group.pids() + helpers:
        gone(pid)


def test_a_rank_whose_sweeper_is_killed_leaves_nothing_either(group: Group) -> None:
    group.ready()
    helpers = [int(each.name.partition("-")[2]) for each in group.notes.glob("helper-*")]
    sweepers = [each for each in psutil.process_iter(["name"]) if each.info["name"] == NAME and _is_of(group, each)]
    assert len(sweepers) == 2, "each rank has one, which is called so"
    sweepers[0].kill()
    group.gone()
    for pid in [*group.pids(), *helpers, *(each.pid for each in sweepers)]:
        gone(pid)


def _is_of(group: Group, process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.environ().get("NOTES") == str(group.notes))
    return False
