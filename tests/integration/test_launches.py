"""A servable that launches its calls, in a real replica: what overlaps, in which order, and what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeadlineExceeded, HpcserveError, PoisonRequest, ServableError
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, is_alive, status, until

LAUNCHES = SERVABLES / "launches"


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client(timeout_s=60.0) as made:
        daemon.deploy(made, LAUNCHES)
        daemon.replica_pids(made, "launches")
        yield made


class Device:
    """What the stand-in device is told, and what it has noted."""

    def __init__(self, place: Path) -> None:
        self.log = place / "log"
        self.gate = place / "gate"

    def submit(self, client: Client, method: str, *values: int, **options: Any) -> list[Any]:
        """A request for each value, which ends once the gate is open."""
        parameters = {"log": str(self.log), "gate": str(self.gate)}
        shape = () if method == "alone" else (1,)
        return [
            client.submit(f"launches.{method}", np.full(shape, value), parameters=parameters, **options)
            for value in values
        ]

    def notes(self, what: str = "") -> list[list[str]]:
        """What was noted, line by line; those of one kind."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split() for line in lines if line.startswith(what)]

    def order(self) -> list[str]:
        """Events with their first samples: ``launched 1``."""
        return [" ".join(note[:2]) for note in self.notes()]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def outcomes(futures: list[Any]) -> list[Any]:
    return [each.exception(60) or int(each.result()["y"].flat[0]) for each in futures]


def learned(client: Client) -> set[str]:
    """The methods of whose batches the replica has told."""
    return {kind.method for one in status(client).deployments for each in one.replicas for kind in each.learned}


def waiting(client: Client) -> int:
    """How many requests the replica has not answered."""
    return sum(each.waiting for each in deployment(client, "launches").replicas)


# --- what overlaps --------------------------------------------------------------------------------------------


def test_the_next_call_is_launched_while_one_computes(client: Client, device: Device) -> None:
    futures = device.submit(client, "alone", 1, 2, 3)
    until(lambda: len(device.notes("launched")) == 2, "two are in flight")
    assert [note[1] for note in device.notes("began")] == ["1"]
    device.gate.touch()
    assert outcomes(futures) == [2, 4, 6]
    order = device.order()
    assert order.index("launched 2") < order.index("ended 1") < order.index("launched 3"), "no more than two at once"
    assert [note[1] for note in device.notes("ended")] == ["1", "2", "3"]


def test_a_full_batch_is_formed_while_one_computes(client: Client, device: Device) -> None:
    warm = Device(device.log.parent / "warm")
    warm.gate.parent.mkdir()
    warm.gate.touch()
    outcomes(warm.submit(client, "small", *range(50)))  # it has learned that larger batches do no harm
    futures = device.submit(client, "small", *range(1, 13))
    until(lambda: len(device.notes("launched")) == 2, "two are in flight")
    assert len(device.notes("began")) == 1
    device.gate.touch()
    assert outcomes(futures) == [2 * n for n in range(1, 13)]
    assert sum(int(note[2]) for note in device.notes("ended")) == 12
    assert max(int(note[2]) for note in device.notes("launched")) == 4


def test_batches_grow_and_each_gets_its_own_answer(client: Client) -> None:
    values = list(range(300))
    futures = [client.submit("launches.predict", np.array([n]), parameters={"seconds": 0.01}) for n in values]
    found = [each.result(60) for each in futures]
    assert [int(each["y"][0]) for each in found] == [2 * n for n in values]
    assert max(int(each["together"][0]) for each in found) >= 8
    until(lambda: "predict" in learned(client), "it tells what it has learned")


def test_an_answer_that_is_there_at_once_is_taken(client: Client) -> None:
    assert client.infer("launches.at_once", np.arange(3))["y"].tolist() == [0, 2, 4]


def test_plain_methods_and_streams_take_turns_with_launched_ones(client: Client) -> None:
    streamed: list[int] = []

    def read() -> None:
        streamed.extend(int(item["y"]) for item in client.stream("launches.count", np.int64(200)))

    reader = threading.Thread(target=read)
    reader.start()
    launched = [client.submit("launches.predict", np.array([n]), parameters={"seconds": 0.001}) for n in range(100)]
    plain = [client.submit("launches.plain", np.int64(n)) for n in range(100)]
    assert [int(each.result(60)["y"]) for each in plain] == [3 * n for n in range(100)]
    assert outcomes(launched) == [2 * n for n in range(100)]
    reader.join(60)
    assert streamed == list(range(200))


# --- what goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, -4])
@pytest.mark.parametrize("place", [0, 1])
def test_of_two_in_flight_only_the_one_at_fault_fails(client: Client, device: Device, bad: int, place: int) -> None:
    values = [5, 5, 5]
    values[place] = bad
    futures = device.submit(client, "alone", *values)
    until(lambda: len(device.notes("launched")) >= 2, "two were launched")
    device.gate.touch()
    found = outcomes(futures)
    assert isinstance(found.pop(place), ServableError)
    assert found == [10, 10]


def test_a_batch_that_fails_is_run_in_parts_while_another_is_in_flight(client: Client) -> None:
    values = [-1 if n in (20, 21, 77) else n for n in range(100)]
    futures = [client.submit("launches.predict", np.array([n]), parameters={"seconds": 0.005}) for n in values]
    found = outcomes(futures)
    for value, outcome in zip(values, found, strict=True):
        if value == -1:
            assert isinstance(outcome, ServableError)
            assert "minus one" in outcome.message
        else:
            assert outcome == 2 * value


def test_a_batch_that_has_no_memory_is_halved(client: Client) -> None:
    futures = [client.submit("launches.predict", np.array([-3]), parameters={"seconds": 0.005}) for n in range(60)]
    assert outcomes(futures) == [-6] * 60


def test_what_nobody_waits_for_is_told_while_it_computes(client: Client) -> None:
    future = client.submit("launches.cancelled", np.int64(1))
    until(lambda: waiting(client), "it runs")
    assert future.cancel()
    until(lambda: not waiting(client), "it has stopped")


def test_a_deadline_passes_for_what_waits_behind_two_in_flight(client: Client, device: Device) -> None:
    futures = device.submit(client, "alone", 1, 2)
    until(lambda: len(device.notes("launched")) == 2, "two are in flight")
    (late,) = device.submit(client, "alone", 3, timeout_s=0.3)
    assert isinstance(late.exception(60), DeadlineExceeded)
    device.gate.touch()
    assert outcomes(futures) == [2, 4]
    assert outcomes(device.submit(client, "alone", 4)) == [8]
    assert "launched 3" not in device.order()


def test_a_replica_that_dies_in_the_middle_loses_nothing(client: Client, device: Device, daemon: Daemon) -> None:
    futures = device.submit(client, "alone", 1, 2, 3)
    until(lambda: len(device.notes("launched")) == 2, "two are in flight")
    (pid,) = daemon.replica_pids(client, "launches")
    device.gate.touch()
    bad = device.submit(client, "alone", -2)
    found: list[int | HpcserveError] = outcomes([*futures, *bad])
    assert found[:3] == [2, 4, 6]
    assert isinstance(found[3], PoisonRequest)
    assert not is_alive(pid)


def test_a_launched_call_that_hangs_has_its_replica_killed(new_daemon: NewDaemon, device: Device) -> None:
    daemon = new_daemon(recovery={"hang_grace_s": 1.0}).up()
    with daemon.client() as client:
        daemon.deploy(client, LAUNCHES)
        (pid,) = daemon.replica_pids(client, "launches")
        (hung,) = device.submit(client, "alone", 1, timeout_s=1.0)
        (behind,) = device.submit(client, "alone", 2, timeout_s=60.0)
        until(lambda: len(device.notes("launched")) == 2, "both are in flight")
        with pytest.raises(DeadlineExceeded):
            hung.result(60)
        daemon.kill("broker")
        until(lambda: not is_alive(pid), "the replica that hangs was killed, by its own alarm at the latest")
        device.gate.touch()
        assert behind.result(60)["y"] == 4


def test_what_is_behind_a_long_call_may_be_late(new_daemon: NewDaemon, device: Device) -> None:
    """Neither while it waits for the device, nor when it begins there after its deadline, has its replica killed."""
    daemon = new_daemon(recovery={"hang_grace_s": 0.1}).up()
    with daemon.client(timeout_s=None) as client:
        daemon.deploy(client, LAUNCHES)
        replicas = daemon.replica_pids(client, "launches")
        parameters = {"log": str(device.log), "seconds": 6.0}
        long = client.submit("launches.alone", np.int64(1), parameters=parameters)
        until(lambda: device.notes("began"), "it computes")
        late = client.submit("launches.alone", np.int64(2), parameters=parameters | {"seconds": 2.0}, timeout_s=1.0)
        until(lambda: len(device.notes("launched")) == 2, "both are in flight")
        assert isinstance(late.exception(60), DeadlineExceeded)
        assert long.result(60)["y"] == 2
        assert client.infer("launches.alone", np.int64(3), parameters={"seconds": 1.0})["y"] == 6
        assert daemon.replica_pids(client, "launches") == replicas


def test_a_drain_ends_with_the_answers_of_what_is_in_flight(new_daemon: NewDaemon, device: Device) -> None:
    daemon = new_daemon().up()
    with daemon.client(timeout_s=60.0) as client:
        daemon.deploy(client, LAUNCHES)
        (pid,) = daemon.replica_pids(client, "launches")
        futures = device.submit(client, "alone", 1, 2, 3)
        until(lambda: len(device.notes("launched")) == 2, "two are in flight")
        client.call("deploy", admin.Deploy(servable="launches", replicas=0), admin.Deployed)
        until(lambda: deployment(client, "launches").state != "ready", "it is being drained")
        device.gate.touch()
        assert outcomes(futures[:2]) == [2, 4]
        until(lambda: not is_alive(pid), "it has ended")
        assert len([note for note in device.notes("ended") if note[3] == str(pid)]) >= 2
