"""One version replaces another under load: nobody is refused who need not be, and callers see one at a time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import HpcserveError, InvalidInput
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import Daemon, deployment, until

SERVABLE = """
import time
from hpcserve.servable import Tensor, method

class Model:
    def setup(self):
        {setup}

    @method(inputs={{"{tensor}": Tensor("int64", [])}}, outputs={{"answer": Tensor("int64", [])}})
    def ask(self, {tensor}):
        return {{"answer": {answer}}}
"""
OVERRIDES = {"pilots": {"slots": 16, "max_pilots": 1}}


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        yield made


def publish(client: Client, place: Path, *, answer: int, tensor: str = "x", setup: str = "pass") -> str:
    """Publishes a version of ``model`` that answers with a number; returns the version."""
    directory = place / f"{answer}"
    directory.mkdir()
    (directory / "servable.toml").write_text('name = "model"\nloader = "python"\nentry = "model:Model"\n')
    (directory / "model.py").write_text(SERVABLE.format(answer=answer, tensor=tensor, setup=setup))
    return client.call("publish", admin.Publish(path=str(directory)), admin.Published).version


def waits_for(go: Path, then: str = "pass") -> str:
    """The setup of a version that begins when the file is there."""
    return f"from pathlib import Path\n        while not Path({str(go)!r}).exists(): time.sleep(0.01)\n        {then}"


def deploy(client: Client, endpoint: str, version: str, replicas: int = 2) -> None:
    arguments = admin.Deploy(servable=f"model@{version}", endpoint=endpoint, replicas=replicas)
    client.call("deploy", arguments, admin.Deployed)


def replaced(client: Client, endpoint: str) -> admin.DeploymentView | None:
    """The deployment, once all its replicas are ready and of the wanted version."""
    view = deployment(client, endpoint)
    done = [each.state == "ready" and each.version == view.version for each in view.replicas]
    return view if all(done) and len(done) == view.wanted else None


def served(client: Client, endpoint: str) -> str:
    return client.call("describe", admin.Describe(endpoint=endpoint), admin.Described).version


def draining(client: Client, endpoint: str) -> set[int | None]:
    return {each.pid for each in deployment(client, endpoint).replicas if each.state == "draining"}


class Load:
    """What callers got, one after the other, who all the time send one tensor."""

    def __init__(self, endpoint: str, tensor: str) -> None:
        self.outcomes: list[int | HpcserveError] = []
        self._endpoint = endpoint
        self._tensor = tensor

    def ask(self, client: Client) -> None:
        try:
            answer = client.infer(f"{self._endpoint}.ask", {self._tensor: np.int64(1)}, timeout_s=30)
            self.outcomes.append(int(answer["answer"]))
        except HpcserveError as error:
            self.outcomes.append(error)


@contextmanager
def asking(daemon: Daemon, *loads: Load) -> Iterator[None]:
    """Each load asks from a thread of its own for as long as the block runs, and once after it."""
    over = threading.Event()

    def ask_on(load: Load) -> None:
        with daemon.client() as mine:
            while not over.is_set():
                load.ask(mine)
            load.ask(mine)

    threads = [threading.Thread(target=ask_on, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(len(load.outcomes) > 10 for load in loads), "the load has begun")
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_with_the_same_methods_no_request_fails(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    deploy(client, "same", publish(client, tmp_path, answer=11))
    until(lambda: replaced(client, "same"), "the first version is ready")
    load = Load("same", "x")
    with asking(daemon, load):
        deploy(client, "same", publish(client, tmp_path, answer=12))
        until(lambda: replaced(client, "same"), "the second version has replaced the first")
    assert set(load.outcomes) == {11, 12}
    assert load.outcomes[-1] == 12


def test_with_other_methods_the_switch_is_one_moment(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = publish(client, tmp_path, answer=21)
    second = publish(client, tmp_path, answer=22, tensor="y", setup=waits_for(go))
    deploy(client, "other", first)
    until(lambda: replaced(client, "other"), "the first version is ready")
    old, new = Load("other", "x"), Load("other", "y")
    with asking(daemon, old, new):
        deploy(client, "other", second)
        assert served(client, "other") == first, "the second is not ready yet"
        assert {each.state for each in deployment(client, "other").replicas} >= {"draining"}
        assert deployment(client, "other").state == "starting"
        go.touch()
        until(lambda: served(client, "other") == second, "the second version serves")
        until(lambda: replaced(client, "other"), "the second version has replaced the first")
    turn_old = [isinstance(outcome, InvalidInput) for outcome in old.outcomes]
    turn_new = [isinstance(outcome, InvalidInput) for outcome in new.outcomes]
    assert {outcome for outcome in old.outcomes if isinstance(outcome, int)} == {21}
    assert {outcome for outcome in new.outcomes if isinstance(outcome, int)} == {22}
    assert turn_old == sorted(turn_old), "answered, and from one moment on refused"
    assert turn_new == sorted(turn_new, reverse=True), "refused, and from one moment on answered"
    refusals = [outcome for outcome in old.outcomes + new.outcomes if isinstance(outcome, HpcserveError)]
    assert {type(refusal) for refusal in refusals} == {InvalidInput}
    assert all("'x'" in refusal.message or "'y'" in refusal.message for refusal in refusals)


def test_a_version_that_does_not_start_leaves_the_old_one(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    good = publish(client, tmp_path, answer=31)
    bad = publish(client, tmp_path, answer=32, tensor="y", setup='raise LookupError("no weights")')
    deploy(client, "stays", good)
    until(lambda: replaced(client, "stays"), "the first version is ready")
    load = Load("stays", "x")
    with asking(daemon, load):
        deploy(client, "stays", bad)
        states = []

        def failed() -> bool:
            states.append(deployment(client, "stays").state)
            return states[-1] == "failed"

        until(failed, "the second version is given up")
    assert "ready" not in states
    assert set(load.outcomes) == {31}
    view = deployment(client, "stays")
    assert "no weights" in view.error
    assert good[:12] in view.error
    assert "LookupError" in view.traceback
    assert served(client, "stays") == good
    lost, _ = daemon.replica_pids(client, "stays", at_least=2)
    os.kill(lost, signal.SIGKILL)
    until(lambda: lost not in daemon.replica_pids(client, "stays", at_least=2), "the lost replica is replaced")
    assert client.infer("stays.ask", {"x": np.int64(1)}, timeout_s=10)["answer"] == 31


def test_a_new_controller_goes_on_where_the_old_one_was(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = publish(client, tmp_path, answer=41)
    second = publish(client, tmp_path, answer=42, tensor="y", setup=waits_for(go))
    deploy(client, "taken-over", first)
    until(lambda: replaced(client, "taken-over"), "the first version is ready")
    old = set(daemon.replica_pids(client, "taken-over", at_least=2))
    load = Load("taken-over", "x")
    with asking(daemon, load):
        deploy(client, "taken-over", second)
        daemon.kill("controller")
        until(lambda: draining(client, "taken-over") == old, "the next one has the old replicas go on")
        assert served(client, "taken-over") == first
        go.touch()
        until(lambda: served(client, "taken-over") == second, "the second version serves")
        until(lambda: replaced(client, "taken-over"), "the second version has replaced the first")
    turn = [isinstance(outcome, InvalidInput) for outcome in load.outcomes]
    assert turn == sorted(turn)
    assert {outcome for outcome in load.outcomes if isinstance(outcome, int)} == {41}


@pytest.mark.parametrize("given_up", [True, False])
def test_a_new_daemon_has_the_version_serve_that_served(
    new_daemon: NewDaemon, tmp_path: Path, *, given_up: bool
) -> None:
    """``given_up``: the newest version fails before the old daemon ends; else only under the new one."""
    daemon = new_daemon().up()
    fails, go = 'raise LookupError("no weights")', tmp_path / "go"
    with daemon.client() as client:
        good = publish(client, tmp_path, answer=51)
        bad = publish(client, tmp_path, answer=52, tensor="y", setup=fails if given_up else waits_for(go, fails))
        deploy(client, "stays", good, replicas=1)
        until(lambda: replaced(client, "stays"), "the first version is ready")
        deploy(client, "stays", bad, replicas=1)
        if given_up:
            until(lambda: deployment(client, "stays").state == "failed", "the second version is given up")
    daemon.down()
    go.touch()
    daemon.up()
    with daemon.client() as client:
        until(lambda: good in {each.version for each in deployment(client, "stays").replicas}, "the old one is started")
        assert client.infer("stays.ask", {"x": np.int64(1)}, timeout_s=30)["answer"] == 51
        view = deployment(client, "stays")
        assert (view.state, view.version) == ("failed", bad)
        assert "no weights" in view.error
        assert good[:12] in view.error
