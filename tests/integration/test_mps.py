"""NVIDIA's Multi-Process Service in pilots: a stand-in for its command notes how it is called."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve.pilot import mps
from hpcserve.wire import exits
from tests.integration.agent_rig import FakeDaemon, Pilot
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, until

FAKE = Path(__file__).resolve().parents[1] / "fakes" / "mps"
PATIENCE_S = 60.0


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in writes, which is on PATH."""
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setenv("MPS_NOTES", str(path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setenv("PATH", f"{FAKE}:{os.environ['PATH']}")
    return path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(tmp_path / "service.json")
    yield made
    made.close()


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[Pilot]:
    made = Pilot(tmp_path)
    yield made
    made.end()


def calls(notes: Path) -> list[list[str]]:
    return [line.split() for line in notes.read_text().splitlines()]


def test_replicas_find_it_and_it_ends_with_the_pilot(daemon: FakeDaemon, pilot: Pilot, notes: Path) -> None:
    incarnation = f"one{os.getpid()}"
    process = pilot.start(mps=True, bind="numa", incarnation=incarnation)
    daemon.serve(lambda: daemon.reports, "the agent reports")
    where = mps.place(incarnation)
    assert calls(notes) == [["start", f"{where}/pipe", f"{where}/log", "700", "unset"]], "before the agent is let in"
    daemon.tell(pilot.orders(pilot.spec("r1", "ready")))
    daemon.wait_for("r1", "ready")
    facts = pilot.facts("r1")
    assert {name: facts["environment"].get(name) for name in mps.variables(incarnation)} == dict(
        mps.variables(incarnation)
    )
    assert facts["environment"]["CUDA_VISIBLE_DEVICES"] == "2,3"
    argv = facts["argv"]
    assert argv[argv.index("--bind") + 1] == "numa"
    process.send_signal(signal.SIGTERM)
    daemon.serve(lambda: process.poll() is not None, "the agent ends")
    assert calls(notes)[1:] == [["quit", f"{where}/pipe"]]
    assert not Path(where).exists()
    assert process.returncode == exits.OK


def test_it_ends_when_the_agent_is_killed(daemon: FakeDaemon, pilot: Pilot, notes: Path) -> None:
    incarnation = f"two{os.getpid()}"
    process = pilot.start(mps=True, incarnation=incarnation)
    daemon.serve(lambda: daemon.reports, "the agent reports")
    process.kill()
    process.wait()
    until(lambda: not Path(mps.place(incarnation)).exists(), "its directory is gone", PATIENCE_S)
    assert [call[0] for call in calls(notes)] == ["start", "quit"]


def test_an_agent_that_cannot_start_it_ends_and_says_why(
    pilot: Pilot, daemon: FakeDaemon, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del daemon
    monkeypatch.setenv("MPS_FAILS", "yes")
    incarnation = f"three{os.getpid()}"
    assert pilot.start(mps=True, incarnation=incarnation).wait(PATIENCE_S) == exits.FAILED
    log = pilot.log()
    assert "Cannot find a GPU" in log
    assert "pilots.mps: nvidia-cuda-mps-control cannot be started on " in log
    assert "(exit code 3; what it said stands above): load the module" in log
    assert calls(notes) == []
    assert not Path(mps.place(incarnation)).exists()


def test_a_directory_that_somebody_has_made_is_not_taken(pilot: Pilot, notes: Path) -> None:
    incarnation = f"four{os.getpid()}"
    theirs = Path(mps.place(incarnation))
    theirs.mkdir()
    try:
        assert pilot.start(mps=True, incarnation=incarnation).wait(PATIENCE_S) == exits.FAILED
        assert theirs.exists()
    finally:
        theirs.rmdir()
    assert calls(notes) == []


def test_a_site_turns_it_on(new_daemon: NewDaemon, notes: Path) -> None:
    whole = new_daemon(pilots={"mps": True, "bind": "numa", "max_pilots": 1}).up()
    with whole.client() as client:
        endpoint = whole.deploy(client, EXAMPLES / "echo")
        whole.replica_pids(client, endpoint)
    (start,) = calls(notes)
    assert whole.down() == 0
    assert calls(notes)[1:] == [["quit", start[1]]]
