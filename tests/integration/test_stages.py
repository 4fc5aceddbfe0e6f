"""When an agent has images copied, and what it does when that fails: real processes, and a fake srun."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcserve.cluster.launchers import SrunLauncher
from hpcserve.errors import ManifestError
from hpcserve.pilot.ownimage import OwnImage
from hpcserve.pilot.stages import SURE_S, Stages, Wish
from hpcserve.pilot.watch import Watch
from hpcserve.wire.launch import ContainerRules, MpiRules
from tests.integration.agent_rig import ROOT
from tests.integration.daemon_tree import until
from tests.integration.test_agent_groups import descendants
from tests.integration.test_image_copies import locked, waiting_for

NODES = ("a", "b", "c")


class Rig:
    """The images of a pilot of three nodes."""

    def __init__(self, place: Path, **rules: Any) -> None:
        self.local = place / "local"
        self.local.mkdir()
        self.image = place / "net.sif"
        self.image.write_bytes(b"an image")
        self.watch = Watch()
        self.later_s = 0.0
        self.stages = Stages(
            ContainerRules(runtime="apptainer", stage_dir=str(self.local), stage_bytes=10**9, **rules),
            pilot="p",
            launcher=SrunLauncher(MpiRules()),
            own="a",
            watch=self.watch,
            clock=lambda: time.monotonic() + self.later_s,
            changed=lambda: None,
            environment=dict(os.environ),
        )

    def want(self, node: str) -> Wish:
        wish = self.stages.want(self.manifest, node)
        assert wish is not None
        return wish

    @property
    def manifest(self) -> str:
        """Of a servable that was published with the image as it is now."""
        content = self.image.read_bytes()
        published = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": len(content),
            "mtime_ns": 1,
            "python": "3.11",
        }
        environment = {"kind": "container", "image": str(self.image), "published": published}
        return json.dumps({"name": "n", "loader": "python", "environment": environment})

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
    caplog.clear()
    rig.later_s += SURE_S + 1
    assert rig.told(rig.want("b")) == ["staged"]
    rig.end()
    assert not caplog.text, "it was only looked for"
    rig.stages.clean(NODES)
    rig.end()
    assert not rig.copies


def test_a_copy_that_is_gone_is_made_anew_for_the_next_replica(rig: Rig) -> None:
    first = rig.want("a")
    assert rig.told(first) == ["staged"]
    rig.end()
    (copy,) = rig.copies
    copy.unlink()
    rig.later_s += SURE_S + 1
    again = rig.want("a")
    assert again.told is None, "nobody knows whether it still is there"
    assert rig.told(again) == ["staged"]
    rig.end()
    assert rig.copies == [copy]


def test_each_replica_tries_again_what_failed_and_the_log_tells_it_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    assert rig.told(rig.want("a")) == ["staged"]
    rig.end()
    (copy,) = rig.copies
    copy.parent.chmod(0o770)
    rig.later_s += SURE_S + 1
    for _ in range(2):
        assert rig.told(rig.want("a")) == ["shared"], "what was known of it is not true any more"
        rig.end()
    assert caplog.text.count(f"image {rig.image} is not copied to a: containers.stage_dir:") == 1
    copy.parent.chmod(0o700)
    assert rig.told(rig.want("a")) == ["staged"]
    rig.end()


def test_a_copy_that_had_to_wait_for_those_of_other_nodes_is_looked_for_again(rig: Rig) -> None:
    own = OwnImage(rig.stages, rig.manifest, ("a", "b"), 1.0)

    def settled() -> bool:
        rig.turn("a")
        return own.settled

    until(settled, "it is known of both", 60.0)
    own.look_again()
    assert own.settled, "not of one that was just found"
    rig.end()
    for copy in rig.copies:
        copy.unlink()
    late = OwnImage(rig.stages, rig.manifest, ("a",), 1.0)
    rig.later_s += SURE_S + 1
    late.look_again()
    assert not late.settled

    def there() -> bool:
        rig.turn("a")
        return late.settled

    until(there, "it is made anew", 60.0)
    rig.end()
    assert late.path(2.0) == str(rig.copies[0])
    rig.later_s += SURE_S + 1
    late.look_again()
    assert late.settled, "it starts, however long that took"


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


def test_a_node_that_fails_meanwhile_is_named_and_the_others_begin_again_together(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent has not heard yet that it is lost; a step with it would be refused at once."""
    caplog.set_level("INFO")
    kept, also, lost = (rig.want(node) for node in NODES)
    lock = rig.local / f"hpcserve-{os.geteuid()}" / ".lock"

    def after_a_turn(condition: Callable[[], object]) -> object:
        rig.turn()
        return condition()

    with locked(lock):  # so that it takes as long as this one wants
        until(lambda: after_a_turn(lambda: waiting_for(lock)), "they have begun", 60.0)
        began_with = [Path(f"/proc/{pid}/environ").read_bytes() for pid in descendants(os.getpid())]
        assert any(b"HWLOC_XMLFILE=unavailable" in each for each in began_with), "mpiexec is to leave no file behind"
        (tmp_path / "c.down").touch()
        until(lambda: after_a_turn(lambda: lost.told), "it is known of c", 60.0)
    assert rig.told(kept, also, lost) == ["staged", "staged", "shared"]
    rig.end()
    assert (lost.told is not None and lost.told.why) == "the node is lost"
    begun = [record.getMessage().rpartition(" is copied to ")[2] for record in caplog.records]
    assert begun.index("a, b, c") < begun.index("a, b")


def test_a_replica_of_several_nodes_starts_when_it_is_known_of_all(rig: Rig) -> None:
    """It runs from the copies that there are."""
    own = OwnImage(rig.stages, rig.manifest, NODES, 1.0)
    assert own.cause == f"its image {rig.image} is being copied to a, b, c"
    rig.turn("a")
    assert own.cause == f"its image {rig.image} is being copied to a", "of the others it is known"
    assert not own.settled

    def settled() -> bool:
        rig.turn("a")
        return own.settled

    until(settled, "it is known of all", 60.0)
    assert own.cause == f"its image is read from {rig.image}: no copy of it is on b: the node is lost; nor on c"
    assert [own.path(3.5)] == [str(copy) for copy in rig.copies]
    assert own.phase == {"image": 2.5}
    rig.end()


def test_no_replica_starts_where_one_node_has_found_another_image(rig: Rig) -> None:
    manifest = rig.manifest
    rig.image.write_bytes(b"an other")
    own = OwnImage(rig.stages, manifest, ("b", "a"), 1.0)
    rig.turn("b")

    def settled() -> bool:
        rig.turn("b")
        return own.settled

    until(settled, "it is known of both", 60.0)
    rig.end()
    with pytest.raises(ManifestError, match="is not the one with which the servable was published"):
        own.path(2.0)


def test_a_replica_without_an_image_waits_for_none(rig: Rig) -> None:
    own = OwnImage(rig.stages, '{"name": "n", "loader": "python"}', NODES, 1.0)
    assert (own.settled, own.cause, own.path(2.0), own.phase, own.sha256) == (True, "", "", {}, "")
