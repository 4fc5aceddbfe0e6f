"""When an agent has images copied, and what it does when that fails: real processes, and a fake srun."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hpcserve.cluster.launchers import SrunLauncher
from hpcserve.pilot.stages import Stages, Wish
from hpcserve.pilot.watch import Watch
from hpcserve.wire.launch import ContainerRules, MpiRules
from tests.integration.agent_rig import ROOT
from tests.integration.daemon_tree import until

NODES = ("a", "b", "c")


class Rig:
    """The images of a pilot of three nodes."""

    def __init__(self, place: Path, **rules: Any) -> None:
        self.local = place / "local"
        self.local.mkdir()
        self.image = place / "net.sif"
        self.image.write_bytes(b"an image")
        self.watch = Watch()
        self.stages = Stages(
            ContainerRules(runtime="apptainer", stage_dir=str(self.local), stage_bytes=10**9, **rules),
            launcher=SrunLauncher(MpiRules()),
            own="a",
            watch=self.watch,
            clock=time.monotonic,
            changed=lambda: None,
            environment=dict(os.environ),
        )

    def want(self, node: str) -> Wish:
        content = self.image.read_bytes()
        published = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": len(content),
            "mtime_ns": 1,
            "python": "3.11",
        }
        environment = {"kind": "container", "image": str(self.image), "published": published}
        wish = self.stages.want(json.dumps({"name": "n", "loader": "python", "environment": environment}), node)
        assert wish is not None
        return wish

    def turn(self, *nodes: str) -> None:
        self.stages.tick(nodes or NODES, ())
        self.watch.turn(0.02)

    def told(self, *wishes: Wish) -> list[str]:
        def all_told() -> bool:
            self.turn()
            return all(wish.told is not None for wish in wishes)

        until(all_told, "all are told", 60.0)
        return [wish.told.outcome for wish in wishes if wish.told is not None]

    def end(self) -> None:
        def ended() -> bool:
            self.turn()
            return self.stages.empty

        until(ended, "no process is left", 60.0)

    @property
    def copies(self) -> list[Path]:
        return list(self.local.glob("*/*.sif"))


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'fakes' / 'srun'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SRUN", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Rig(tmp_path)


def test_nodes_that_do_not_come_together_copy_by_themselves(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The fake starts one process in place of three, of a name that nobody knows."""
    caplog.set_level("INFO")
    wishes = [rig.want(node) for node in NODES]
    assert {wish.told_cause for wish in wishes} == {
        f"its image {rig.image} is being copied to {node}" for node in NODES
    }
    assert rig.told(*wishes) == ["staged"] * 3
    rig.end()
    assert caplog.text.count("each node reads images from the shared file system by itself") == 1
    again = rig.want("b")
    assert again.told is not None, "it is remembered"
    rig.stages.clean(NODES)
    rig.end()
    assert not rig.copies


def test_the_end_of_the_pilot_ends_the_copying(rig: Rig) -> None:
    rig.image.unlink()
    os.mkfifo(rig.image)
    rig.image.rename(rig.image.with_suffix(".fifo"))
    rig.image.write_bytes(b"an image")
    wish = rig.want("a")
    rig.image.unlink()
    rig.image.with_suffix(".fifo").rename(rig.image)  # nobody will ever write to it
    rig.turn()
    assert not rig.stages.empty
    rig.stages.stop()
    rig.end()
    assert (wish.told is not None and wish.told.why) == "the pilot ends"
    assert not rig.copies


def test_a_node_that_is_lost_gets_none_and_the_others_do(rig: Rig) -> None:
    kept, lost = rig.want("a"), rig.want("c")
    rig.turn("a", "b")
    assert (lost.told is not None and lost.told.why) == "the node is lost"
    assert rig.told(kept) == ["staged"]
    rig.end()
