"""Publishing takes long where a servable's import does: so many at a time, and nobody else waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve import Client
from hpcserve.daemon.controller.publishing import MOST_INGESTING
from hpcserve.errors import HpcserveError, InvalidInput, Overloaded
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, Daemon, until

SLOW = """
import pathlib, time
while not pathlib.Path({go!r}).exists():
    time.sleep(0.05)
from hpcserve.servable import Tensor, method

class Model:
    @method(inputs={{"x": Tensor("int64", [])}}, outputs={{"x": Tensor("int64", [])}})
    def same(self, x):
        return {{"x": x}}
"""


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        yield made


def slow_servable(directory: Path, name: str, go: Path) -> Path:
    made = directory / name
    made.mkdir()
    (made / "servable.toml").write_text(f'name = "{name}"\nloader = "python"\nentry = "model:Model"\n')
    (made / "model.py").write_text(SLOW.format(go=str(go)))
    return made


def test_too_many_publications_are_refused_and_hold_nobody_up(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    outcomes: list[str] = []

    def publish(directory: Path) -> None:
        try:
            client.call("publish", admin.Publish(path=str(directory)), admin.Published, timeout_s=60)
            outcomes.append("published")
        except HpcserveError as error:
            outcomes.append(type(error).__name__)

    servables = [slow_servable(tmp_path, f"slow{number}", go) for number in range(MOST_INGESTING + 3)]
    threads = [threading.Thread(target=publish, args=(each,)) for each in servables]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(outcomes) == 3, "three are refused")
        assert outcomes == [Overloaded.__name__] * 3
        assert client.call("logs", admin.AskLogs(name="controller"), admin.Logs, timeout_s=10).logs
    finally:
        go.touch()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == [Overloaded.__name__] * 3 + ["published"] * MOST_INGESTING
    published = client.call("publish", admin.Publish(path=str(EXAMPLES / "echo")), admin.Published)
    assert published.name == "echo"


@pytest.mark.parametrize("path", ["", "echo", "./echo", "~/echo"])
def test_a_path_that_depends_on_where_one_stands_is_refused(client: Client, path: str) -> None:
    with pytest.raises(InvalidInput, match="is relative, .*; give the whole path"):
        client.call("publish", admin.Publish(path=path), admin.Published)


def test_a_publication_that_never_ends_does_not_hold_the_daemon(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon().up()
    servable = slow_servable(tmp_path, "slow", tmp_path / "never")
    outcomes: list[str] = []

    def publish() -> None:
        with daemon.client() as mine:
            try:
                mine.call("publish", admin.Publish(path=str(servable)), admin.Published, timeout_s=5)
            except HpcserveError as error:
                outcomes.append(type(error).__name__)

    thread = threading.Thread(target=publish)
    thread.start()
    until(lambda: any("servable.inspect" in each for each in daemon.commands()), "the import has begun")
    began = time.monotonic()
    assert daemon.down() == 0
    assert time.monotonic() - began < 20
    thread.join()
