"""A service behind a real sshd: calls, streams, lost connections, and what becomes of each process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from hpcserve import AsyncClient, Client
from hpcserve.client import tunnel
from hpcserve.client.by_ssh import BySsh
from hpcserve.client.services import Service
from hpcserve.core import silence
from hpcserve.errors import AuthenticationError, ServiceUnavailable
from hpcserve.types import Epoch
from hpcserve.wire.record import decode_record, encode_record
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, is_alive, status, until
from tests.integration.sshd import Sshd, children, sshd_in

# A client that is away for longer has given up what it waited for: on a busy machine a login takes seconds.
OVERRIDES = {"recovery": {"session_linger_s": 30.0}}
X = np.arange(3, dtype=np.float32)
WITHIN_S = 60.0
FAREWELL_S = OVERRIDES["recovery"]["session_linger_s"] / 2
# A client whose forked child lives on. It says its ssh's pid and its child's.
CLIENT = """
import os, sys, time
from hpcserve import Client

client = Client(sys.argv[1])
child = os.fork()
if child:
    print(client._way._tunnel.pid, child, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def sshd(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A login node whose daemon serves some things."""
    with daemon.client() as client:
        for servable in (EXAMPLES / "echo", EXAMPLES / "walk", SERVABLES / "tally"):
            endpoint = daemon.deploy(client, servable)
            daemon.replica_pids(client, endpoint)
    with sshd_in(tmp_path_factory.mktemp("sshd"), daemon.variables) as made:
        yield made


@pytest.fixture(autouse=True)
def laptop(sshd: Sshd, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """We have the key of the daemon's owner, and ssh. At the end nothing of that is left."""
    monkeypatch.setenv("HPCSERVE_HOME", str(sshd.home_with_key(daemon.home / "client.key")))
    monkeypatch.setenv("PATH", sshd.path)
    yield
    assert not children("ssh")
    until(lambda: not sshd.far_sides(), "no hpcserve connect is left", WITHIN_S)


def ran(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_a_call_and_its_answer_and_nothing_left(sshd: Sshd, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon.client() as owner, tempfile.TemporaryDirectory() as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        with Client(sshd.address()) as client:
            assert client.infer("echo.echo", X)["x"].tolist() == [0, 1, 2]
            assert len(children("ssh")) == 1
            assert len(sshd.far_sides()) == 1
            assert status(owner).sessions == 2
            assert not os.listdir(place), "its sockets are there while it connects"
        assert not children("ssh")
        # Long before it would be given up for its silence.
        until(lambda: status(owner).sessions == 1, "it has said good-bye", FAREWELL_S)


def test_many_megabytes_both_ways_and_small_calls_beside_them(sshd: Sshd) -> None:
    sent = np.random.default_rng(7).random(12 << 20, np.float32)

    async def run() -> None:
        async with AsyncClient(sshd.address()) as client:
            big, *small = await asyncio.gather(
                client.infer("echo.echo", sent), *(client.infer("echo.echo", X + each) for each in range(50))
            )
            assert np.array_equal(big["x"], sent)
            assert [each["x"][0] for each in small] == list(range(50))

    asyncio.run(run())


def test_a_stream_comes_item_by_item(sshd: Sshd) -> None:
    with Client(sshd.address()) as client, client.stream("walk", np.zeros(2)) as steps:
        assert len(list(islice(steps, 300))) == 300


def test_ssh_drops_in_mid_request_and_the_answer_comes_once(sshd: Sshd, tmp_path: Path) -> None:
    log, logins = tmp_path / "log", sshd.logins
    with Client(sshd.address()) as client:
        future = client.submit("tally.again", np.int64(5), parameters={"log": str(log), "gates": str(tmp_path)})
        until(lambda: ran(log), "it runs", WITHIN_S)
        sshd.cut()
        until(lambda: sshd.logins >= logins + 2, "another login", WITHIN_S)
        (tmp_path / "all").touch()
        assert future.result(WITHIN_S)["n"] == 5
    assert ran(log) == ["5"]


def test_ssh_drops_again_and_again_and_no_answer_is_lost(sshd: Sshd, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Client(sshd.address()) as client:
        made = [
            client.submit("tally.again", np.int64(n), parameters={"log": str(log), "sleep_s": 0.02}) for n in range(150)
        ]
        for enough in (20, 60, 100):
            until(lambda enough=enough: sum(each.done() for each in made) >= enough, f"{enough} answers", WITHIN_S)  # type: ignore[misc]  # a default binds it
            sshd.cut()
        assert [int(each.result(WITHIN_S)["n"]) for each in made] == list(range(150))
    assert sorted(ran(log), key=int) == [str(n) for n in range(150)], "each ran once"


def test_a_tunnel_that_stands_still_is_given_up(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "PING_S", 0.2)
    monkeypatch.setattr(tunnel, "SILENT_S", 4.0)
    with Client(sshd.address()) as client:
        (stopped,) = sshd.far_sides()
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert client.infer("echo.echo", X, timeout_s=WITHIN_S)["x"].tolist() == [0, 1, 2]
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_a_daemon_that_starts_anew_costs_no_login(sshd: Sshd, daemon: Daemon) -> None:
    logins = sshd.logins
    with Client(sshd.address()) as client:
        client.infer("echo.echo", X)
        daemon.down()
        waits = client.submit("echo.echo", X)
        daemon.up()
        assert waits.result(WITHIN_S)["x"].tolist() == [0, 1, 2]
    assert sshd.logins == logins + 1


def test_a_record_that_cannot_be_read_now_holds_no_answer_up(
    sshd: Sshd, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "FIRST_S", 0.1)
    record = tmp_path / "service.json"
    record.write_bytes(daemon.record.read_bytes())
    with Client(sshd.address(place=str(record))) as client:
        record.unlink()
        os.mkfifo(record)  # as on a file system that stands still, who reads it waits
        waits = client.submit(
            "tally.again", np.int64(5), parameters={"log": str(tmp_path / "log"), "gates": str(tmp_path)}
        )
        writer = until(lambda: opened(record), "the far side reads it", WITHIN_S)
        try:
            assert client.infer("echo.echo", X, timeout_s=WITHIN_S)["x"].tolist() == [0, 1, 2]
            (tmp_path / "all").touch()
            assert waits.result(WITHIN_S)["n"] == 5
        finally:
            os.close(writer)


def test_an_answer_that_comes_too_late_is_not_taken_for_that_of_the_next_question(
    sshd: Sshd, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, known = tmp_path / "service.json", decode_record(daemon.record.read_bytes(), "it")
    place.write_bytes(encode_record(known))
    way = BySsh(Service(address=sshd.address(place=str(place))))
    try:
        with way.reach() as reached:
            assert reached.record.epoch == known.epoch
        place.unlink()
        os.mkfifo(place)
        with monkeypatch.context() as patch:
            patch.setattr(tunnel, "READ_S", 0.1)
            with pytest.raises(ServiceUnavailable, match=r"did not read the service record within 0\.1 s"):
                way.published()
        writer = until(lambda: opened(place), "the far side reads it", WITHIN_S)
        place.unlink()
        place.write_bytes(encode_record(replace(known, epoch=Epoch(known.epoch + 2))))
        os.write(writer, encode_record(replace(known, epoch=Epoch(known.epoch + 1))))
        os.close(writer)
        assert way.published() == known.epoch + 2
    finally:
        way.close()


def opened(fifo: Path) -> int:
    """A descriptor to write to it; 0 while nobody reads it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def test_a_client_that_is_killed_leaves_nothing_though_its_child_lives(sshd: Sshd) -> None:
    client = subprocess.Popen([sys.executable, "-c", CLIENT, sshd.address()], stdout=subprocess.PIPE, text=True)
    with client:
        assert client.stdout is not None
        ssh, child = map(int, client.stdout.readline().split())
        client.kill()
        try:
            until(lambda: not is_alive(ssh), "its ssh has ended", WITHIN_S)
            until(lambda: not sshd.far_sides(), "the far side has ended", WITHIN_S)
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_key_that_is_not_the_pinned_one_is_refused(sshd: Sshd) -> None:
    with pytest.raises(AuthenticationError, match=r"another key .* hpcserve service add --replace NAME ssh://"):
        Client(Service(address=sshd.address(), public_key="x" * 40))
