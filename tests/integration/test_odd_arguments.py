"""What no caller means to give: one error that names the argument and the value, and the client goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.services import Service
from hpcserve.errors import InvalidInput
from hpcserve.wire import admin
from hpcserve.wire.jsonvalue import Json
from tests.integration.daemon_tree import EXAMPLES, Daemon

ONE = np.ones(1, np.float32)
USUAL: dict[str, Any] = {"endpoint": "echo.echo", "inputs": ONE, "timeout_s": 20.0}


def odd(argument: str, told: str, *values: Any) -> list[tuple[str, Any, str]]:
    return [(argument, value, told) for value in values]


ODD = [
    *odd("timeout_s", "number of seconds", "5", b"5", [], float("nan"), -1, -1e-9, float("-inf"), True),
    *odd("timeout_s", "None for no deadline", np.ones(2), 1j, object()),
    *odd("priority", "an integer from", "5", 1.5, True, None, [], float("nan"), np.ones(1)),
    *odd("priority", "2**63", 1 << 63, -(1 << 63) - 1, 10**30, 10**5000),
    *odd("endpoint", "NAME.METHOD", None, b"echo.echo", 5, ["echo"], "", ".", ".echo", "echo."),
    *odd("endpoint", "NAME.METHOD", "\ud800", "echo.\ud800"),
    *odd("endpoint", "3000000 characters", "e" * 3_000_000),
    *odd("inputs", "{} for a method without inputs", None),
    *odd("inputs", "found object", object(), np.array([object()]), {"x": object()}),
    *odd("inputs", "Json(...)", {"x": None}, {"x": {}}, {1, 2}, iter([1])),
    *odd("inputs", "name is text", {1: ONE}, {None: ONE}, {("x",): ONE}),
    *odd("inputs", "not valid Unicode", {"\ud800": ONE}),
    *odd("inputs", "numpy makes no array", [[1], [1, 2]]),
    *odd("parameters", "by name, or None", 5, 0, "ab", [], [("a", 1)], np.ones(2), object()),
    *odd("parameters", "is not text", {1: 2}, {None: 1}),
    *odd("parameters", "numbers, text", {"a": object()}, {"a": np.ones(1)}, {"a": 10**40}, {"a": "\ud800"}),
]
IDS = [f"{argument}-{number}" for number, (argument, _, _) in enumerate(ODD)]
each_odd = pytest.mark.parametrize(("argument", "value", "told"), ODD, ids=IDS)


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, EXAMPLES / "echo")
        daemon.replica_pids(made, "echo")
        yield made


@pytest.fixture(autouse=True)
def _unharmed(client: Client) -> Iterator[None]:
    """A call that was refused is not kept, to be sent at the next reconnect."""
    yield
    assert client._shared.engine.waiting == 0
    assert client.infer(**USUAL)["x"] == 1


def refusal(call: Callable[[], object], argument: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.message.startswith(argument)
    assert told in caught.value.message
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


@each_odd
def test_a_call_is_refused(client: Client, argument: str, value: Any, told: str) -> None:
    refusal(lambda: client.infer(**USUAL | {argument: value}), argument, told)


@each_odd
def test_a_submitted_call_is_refused_at_once(client: Client, argument: str, value: Any, told: str) -> None:
    refusal(lambda: client.submit(**USUAL | {argument: value}), argument, told)


@each_odd
def test_a_mapped_call_is_refused(client: Client, argument: str, value: Any, told: str) -> None:
    given = USUAL | {argument: value}
    items = [given.pop("inputs")]
    refusal(lambda: next(client.map(items=items, **given)), argument, told)


def test_the_asynchronous_client_refuses_the_same(daemon: Daemon) -> None:
    async def refused(call: Any, argument: str, told: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            await call()
        assert caught.value.message.startswith(argument)
        assert told in caught.value.message

    async def main() -> None:
        async with AsyncClient(Service(daemon.record)) as other:
            for argument, value, told in ODD:
                given = USUAL | {argument: value}
                await refused(lambda given=given: other.infer(**given), argument, told)
                await refused(lambda given=given: other.submit(**given), argument, told)
                items = [given.pop("inputs")]
                await refused(lambda given=given, items=items: anext(other.map(items=items, **given)), argument, told)
                assert other._engine.waiting == 0
            assert (await other.infer(**USUAL))["x"] == 1

    with daemon.environment():
        asyncio.run(main())


@pytest.mark.parametrize("in_flight", ["2", 1.5, True, None, 0, -1, float("nan")])
def test_how_many_are_in_flight_is_a_whole_number(client: Client, in_flight: Any) -> None:
    refusal(lambda: next(client.map("echo.echo", [ONE], in_flight=in_flight)), "in_flight", "at least 1")


@pytest.mark.parametrize("items", [None, 5])
def test_what_map_goes_through_is_iterable(client: Client, items: Any) -> None:
    refusal(lambda: next(client.map("echo.echo", items)), "items", "iterable")


def test_an_administrative_call_is_refused(client: Client) -> None:
    def call(verb: Any, given: Any, timeout_s: Any = 20.0) -> admin.Status:
        return client.call(verb, given, admin.Status, timeout_s=timeout_s)

    refusal(lambda: call(None, admin.AskStatus()), "verb", "text")
    refusal(lambda: call("status", {}), "arguments", "hpcserve.wire.admin")
    refusal(lambda: call("status", admin.AskStatus(), "5"), "timeout_s", "number of seconds")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_is_refused(kind: type[Any]) -> None:
    refusal(lambda: kind(5), "service", "hpcserve service list")
    refusal(lambda: kind(timeout_s="5"), "timeout_s", "number of seconds")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("timeout_s", each) for each in (20, np.float32(20), np.int64(20), 1e300, float("inf"))),
        *(("priority", each) for each in (-1, np.int64(3), np.uint8(3), (1 << 63) - 1, -(1 << 63))),
        ("endpoint", np.str_("echo.echo")),
        ("inputs", {np.str_("x"): ONE}),
        ("parameters", {}),
    ],
)
def test_what_means_the_same_is_taken(client: Client, argument: str, value: Any) -> None:
    assert client.infer(**USUAL | {argument: value})["x"] == 1


def test_null_and_no_inputs_can_be_sent(client: Client) -> None:
    assert client.infer("echo.value", Json(None))["value"] is None
    with pytest.raises(InvalidInput, match="input 'x' missing"):
        client.infer("echo.echo", {})
