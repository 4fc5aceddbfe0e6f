"""Streams whose broker or replica is killed: each item once and in order, or an error that says how far it came."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import OutcomeUnknown, StreamInterrupted
from tests.integration.daemon_tree import SERVABLES, Daemon, status, until

OVERRIDES = {"recovery": {"recovery_grace_s": 5.0, "session_linger_s": 10.0}}


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, SERVABLES / "streams")
        daemon.replica_pids(made, "streams")
        yield made


@pytest.mark.parametrize("window", [4, 1024])
def test_a_killed_broker_loses_and_doubles_nothing(client: Client, daemon: Daemon, tmp_path: Path, window: int) -> None:
    parameters = {"log": str(tmp_path / "log"), "pause_s": 0.002}
    found = []
    for each in client.stream("streams.slow", np.int64(1000), parameters=parameters, window=window):
        found.append(int(each["y"]))
        if found[-1] in (200, 500):
            daemon.kill("broker")
    assert found == list(range(1000))
    assert (tmp_path / "log.ended").read_text() == "ended\n"  # it ran once


def test_a_killed_broker_does_not_lose_the_end(client: Client, daemon: Daemon) -> None:
    items = client.stream("streams.count", np.int64(500), window=1024)
    first = int(next(items)["y"])
    daemon.kill("broker")
    assert [first, *(int(each["y"]) for each in items)] == list(range(500))
    until(lambda: status(client).held_bytes == 0, "the broker holds nothing")


def test_a_stream_is_run_again_if_nothing_of_it_has_come(client: Client, tmp_path: Path) -> None:
    parameters = {"log": str(tmp_path / "log"), "pause_s": 0.1}
    assert [int(each["y"]) for each in client.stream("streams.dies", np.int64(0), parameters=parameters)] == [
        *range(10)
    ]


def test_a_stream_is_not_run_again_after_its_first_item(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    parameters = {"log": str(tmp_path / "log"), "gate": str(gate)}
    items = client.stream("streams.dies", np.int64(3), parameters=parameters)
    assert [int(next(items)["y"]) for _ in range(3)] == [0, 1, 2]
    gate.touch()
    with pytest.raises(StreamInterrupted, match="after 3 items") as error:
        next(items)
    assert error.value.retryable
    assert [int(each["y"]) for each in client.stream("streams.dies", np.int64(3), parameters=parameters)] == [
        *range(10)
    ]


def test_one_that_must_not_run_twice_says_so(client: Client, tmp_path: Path) -> None:
    parameters = {"log": str(tmp_path / "log"), "pause_s": 0.3}
    with pytest.raises(OutcomeUnknown):
        list(client.stream("streams.dies_once", np.int64(3), parameters=parameters))


def test_a_killed_replica_interrupts_what_has_begun(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    (pid,) = daemon.replica_pids(client, "streams")
    streams = [
        client.stream("streams.slow", np.int64(10**9), parameters={"log": str(tmp_path / str(n))}, window=3)
        for n in range(3)
    ]
    for each in streams:
        next(each)
    os.kill(pid, signal.SIGKILL)
    for each in streams:
        with pytest.raises(StreamInterrupted):
            list(each)
    until(lambda: daemon.replica_pids(client, "streams") != [pid], "the replica was replaced")


def test_a_replica_that_dies_without_a_broker_interrupts(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    (pid,) = daemon.replica_pids(client, "streams")
    parameters = {"log": str(tmp_path / "log"), "pause_s": 0.001}
    items = client.stream("streams.slow", np.int64(10**9), parameters=parameters, window=100)
    next(items)
    os.kill(daemon.pid_of("broker"), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(StreamInterrupted, match="second run"):
        list(items)


def test_streams_that_waited_with_one_that_hung_all_begin(client: Client, tmp_path: Path) -> None:
    logs = [tmp_path / str(n) for n in range(4)]
    hung = client.stream("streams.never", np.int64(0), timeout_s=0.5)
    streams = [
        client.stream("streams.slow", np.int64(10**9), parameters={"log": str(log)}, window=3, timeout_s=40.0)
        for log in logs
    ]
    began = time.monotonic()
    assert [int(next(each)["y"]) for each in streams] == [0, 0, 0, 0]
    assert time.monotonic() - began < 30
    hung.close()
    for each in streams:
        each.close()
