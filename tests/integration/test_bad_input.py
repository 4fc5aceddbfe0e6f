"""What a caller can get wrong: each mistake is answered with its own error, at once, and the next call works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import (
    ConfigError,
    HpcserveError,
    InvalidInput,
    InvalidOutput,
    ManifestError,
    NotFound,
    Overloaded,
    ProtocolError,
    UnknownEndpoint,
    UnknownMethod,
    UnknownServable,
)
from hpcserve.wire import admin
from hpcserve.wire.jsonvalue import Json
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, status, until

OVERRIDES = {"budgets": {"session_bytes": 20_000_000, "broker_bytes": 30_000_000}}
ONE = np.ones(1, np.float32)


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, EXAMPLES / "echo")
        daemon.deploy(made, SERVABLES / "tally")
        daemon.replica_pids(made, "tally")
        yield made


@pytest.fixture(autouse=True)
def _still_serves(client: Client) -> Iterator[None]:
    yield
    assert client.infer("echo.echo", ONE, timeout_s=10)["x"] == 1


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """Where the calls of ``tally.measure`` wait for a file ``all``."""
    made = tmp_path / "gates"
    made.mkdir()
    return made


def refused(client: Client, kind: type[HpcserveError], target: str, inputs: Any) -> str:
    """The message of the error that the call ends with, at once."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        client.infer(target, inputs)
    assert type(caught.value) is kind
    assert time.monotonic() - began < 30
    return caught.value.message


# --- names ------------------------------------------------------------------------------------------------


def test_an_unknown_endpoint_is_told_the_nearest_names(client: Client) -> None:
    assert "did you mean 'echo'?" in refused(client, UnknownEndpoint, "ehco", ONE)
    assert "known: echo, tally" in refused(client, UnknownEndpoint, "zzz", ONE)
    refused(client, UnknownEndpoint, "echo ", ONE)


def test_an_unknown_method_is_told_the_nearest_names(client: Client) -> None:
    assert "did you mean 'echo'?" in refused(client, UnknownMethod, "echo.eccho", ONE)
    told = refused(client, UnknownMethod, "echo", ONE)
    assert told.endswith("name one as ENDPOINT.METHOD: echo.echo, echo.blob, echo.value")


def test_an_unknown_servable_cannot_be_deployed(client: Client) -> None:
    with pytest.raises(UnknownServable, match="ecco"):
        client.call("deploy", admin.Deploy(servable="ecco"), admin.Deployed)
    with pytest.raises(UnknownServable, match="stable"):
        client.call("deploy", admin.Deploy(servable="echo@stable"), admin.Deployed)


def test_an_unknown_endpoint_cannot_be_taken_down_or_described(client: Client) -> None:
    with pytest.raises(UnknownEndpoint, match="did you mean 'echo'"):
        client.call("undeploy", admin.Undeploy(endpoint="eco"), admin.Undeployed)
    with pytest.raises(UnknownEndpoint, match="did you mean 'echo'"):
        client.call("describe", admin.Describe(endpoint="eco"), admin.Described)


@pytest.mark.parametrize("name", ["", "../echo", "a b", "-x", "x" * 200, "é", "a.b", "a/b"])
def test_an_endpoint_has_a_plain_name(client: Client, name: str) -> None:
    if not name:
        name = "."
    with pytest.raises(InvalidInput, match="endpoint"):
        client.call("deploy", admin.Deploy(servable="echo", endpoint=name), admin.Deployed)


@pytest.mark.parametrize("replicas", [-1, 10**9])
def test_a_number_of_replicas_has_bounds(client: Client, replicas: int) -> None:
    with pytest.raises(InvalidInput, match="replicas"):
        client.call("deploy", admin.Deploy(servable="echo", replicas=replicas), admin.Deployed)


def test_an_unknown_call_is_told_the_nearest(client: Client) -> None:
    with pytest.raises(ProtocolError, match="did you mean 'status'"):
        client.call("statsu", admin.AskStatus(), admin.Status)


def test_a_call_with_unknown_fields_is_refused(client: Client) -> None:
    with pytest.raises(ProtocolError, match="path"):
        client.call("status", admin.Publish(path="/"), admin.Status)


def test_what_is_no_servable_is_not_published(client: Client, tmp_path: Any) -> None:
    def publish(path: Any) -> admin.Published:
        return client.call("publish", admin.Publish(path=str(path)), admin.Published)

    with pytest.raises((ManifestError, NotFound, ConfigError), match="nowhere"):
        publish(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="servable.toml"):
        publish(tmp_path)
    manifest = tmp_path / "servable.toml"
    for text, told in [
        ('name = "x"\nloader = "python"\nentry = "x:f"\ncolour = 1\n', "colour"),
        ('name = "x"\nloader = "python"\nentry = "x:f"\n', "x.py|No module named 'x'"),
        ('name = "../x"\nloader = "python"\nentry = "x:f"\n', "name"),
        ('name = "x"\nloader = "sklearn"\nfile = "../../etc/passwd"\n', "file"),
        ('name = "x"\nloader = "perl"\nentry = "x:f"\n', "perl"),
        ("name = ", "TOML|line 1"),
    ]:
        manifest.write_text(text)
        with pytest.raises(ManifestError, match=told):
            publish(tmp_path)
    assert not [each for each in status(client).servables if each.name == "x"]


# --- tensors ----------------------------------------------------------------------------------------------


def test_a_wrong_tensor_name_is_told_the_right_one(client: Client) -> None:
    told = refused(client, InvalidInput, "echo.echo", {"y": ONE})
    assert "'y'" in told
    assert "known: x;" in told


@pytest.mark.parametrize("x", [np.ones(1), np.ones(1, np.int64), np.array([b"1"]), np.ones(1, np.complex64)])
def test_a_wrong_dtype_is_told_the_right_one(client: Client, x: Any) -> None:
    assert "float32" in refused(client, InvalidInput, "echo.echo", x)


@pytest.mark.parametrize("shape", [(), (1, 1), (2, 3, 4)])
def test_a_wrong_shape_is_told_the_right_one(client: Client, shape: tuple[int, ...]) -> None:
    told = refused(client, InvalidInput, "echo.echo", np.ones(shape, np.float32))
    assert "shape" in told
    assert str(list(shape)) in told


def test_a_wrong_number_of_tensors_is_told(client: Client) -> None:
    refused(client, InvalidInput, "echo.echo", {"x": ONE, "y": ONE})
    refused(client, InvalidInput, "echo.echo", {})


@pytest.mark.parametrize("x", [object(), np.array([object()]), np.array(["2020-01-01"], "datetime64[D]"), {1, 2}])
def test_what_is_no_tensor_never_leaves_the_client(client: Client, x: Any) -> None:
    before = status(client).requests
    refused(client, InvalidInput, "echo.echo", x)
    assert status(client).requests == before


def test_too_many_tensors_are_refused(client: Client) -> None:
    with pytest.raises(HpcserveError, match="256"):
        client.infer("echo.echo", {f"x{n}": ONE for n in range(300)}, timeout_s=10)


@pytest.mark.parametrize("in_flight", [0, -1])
def test_a_map_needs_something_in_flight(client: Client, in_flight: int) -> None:
    with pytest.raises(InvalidInput, match="in_flight"):
        next(client.map("echo.echo", [ONE], in_flight=in_flight))


@pytest.mark.parametrize("value", [object(), 1 << 70, np.float32(1)])
def test_parameters_that_cannot_travel_are_refused(client: Client, value: Any) -> None:
    with pytest.raises(InvalidInput, match="parameters"):
        client.infer("echo.value", Json(1), parameters={"x": value})


# --- budgets ----------------------------------------------------------------------------------------------


def test_what_can_never_fit_does_not_leave_the_client(client: Client) -> None:
    before = status(client)
    with pytest.raises(InvalidInput, match="20000000"):
        client.infer("echo.blob", np.zeros(25_000_000, np.uint8))
    after = status(client)
    assert (after.requests, after.refused) == (before.requests, before.refused)


def test_a_result_that_can_never_be_sent_is_the_servables_error(client: Client) -> None:
    with pytest.raises(InvalidOutput, match=r"budgets\.outbox_bytes"):
        client.infer("tally.blob", np.int64((256 << 20) + 1), timeout_s=60, reply="inline")
    assert client.infer("tally.blob", np.int64(3))["blob"].size == 3


def test_a_full_session_is_refused_for_now_and_comes_again_by_itself(client: Client, gates: Path) -> None:
    before = status(client)
    held = {"gates": str(gates)}
    futures = [client.submit("tally.measure", np.zeros(6_000_000, np.uint8), parameters=held) for _ in range(5)]
    until(lambda: status(client).refused - before.refused >= 2, "two have no room")
    (gates / "all").touch()
    assert [each.exception(30) for each in futures] == [None] * 5
    assert status(client).requests - before.requests == 5


def test_what_has_no_room_before_its_deadline_is_overloaded(client: Client, gates: Path) -> None:
    held = {"gates": str(gates)}
    fill = [client.submit("tally.measure", np.zeros(6_000_000, np.uint8), parameters=held) for _ in range(3)]
    late = [client.submit("tally.measure", np.zeros(3_000_000, np.uint8), timeout_s=4.0) for _ in range(2)]
    failed = [each.exception(20) for each in late]
    (gates / "all").touch()
    assert [each.exception(20) for each in fill] == [None] * 3
    for error in failed:
        assert isinstance(error, Overloaded)
        assert error.retryable
        assert error.retry_after_s is not None
    assert client.infer("tally.measure", np.zeros(6_000_000, np.uint8))["size"] == 6_000_000


def test_a_full_daemon_is_overloaded_for_everybody(client: Client, daemon: Daemon, gates: Path) -> None:
    held = {"gates": str(gates)}
    with daemon.client() as other:
        mine = [client.submit("tally.measure", np.zeros(9_000_000, np.uint8), parameters=held) for _ in range(2)]
        until(lambda: status(client).held_bytes > 18_000_000, "the daemon holds what was sent")
        first = other.submit("tally.measure", np.zeros(9_000_000, np.uint8), parameters=held)
        until(lambda: status(client).held_bytes > 27_000_000, "the daemon holds that too")
        hasty = other.submit("tally.measure", np.zeros(4_000_000, np.uint8), timeout_s=10.0)
        patient = other.submit("tally.measure", np.zeros(4_000_000, np.uint8))
        assert isinstance(hasty.exception(60), Overloaded)
        (gates / "all").touch()
        assert [each.exception(60) for each in (*mine, first, patient)] == [None] * 4
    until(lambda: status(client).held_bytes < 1000, "everything was given back")


def test_a_full_queue_is_overloaded(new_daemon: Any) -> None:
    daemon = new_daemon(budgets={"max_queued": 10}).up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo", replicas=0)
        waiting = [client.submit("echo.echo", ONE, timeout_s=120 if n < 10 else 10.0) for n in range(12)]
        for late in waiting[10:]:
            with pytest.raises(Overloaded, match="10 requests are queued") as caught:
                late.result(60)
            assert caught.value.retry_after_s is not None
        assert not any(each.done() for each in waiting[:10])
