"""Requests that run together in a real replica, and what becomes of them when it goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeadlineExceeded, HpcserveError, InvalidInput, InvalidOutput, PoisonRequest, ServableError
from hpcserve.wire import admin
from hpcserve.wire.messages import BatchesRun
from tests.integration.daemon_tree import SERVABLES, Daemon, status, until


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, SERVABLES / "batches")
        daemon.replica_pids(made, "batches")
        yield made


def results(client: Client, method: str, values: list[int], **options: Any) -> list[Any]:
    """The outcome of a request for each value, all of them out at once."""
    futures = [client.submit(f"batches.{method}", np.array([value]), **options) for value in values]
    return [future.exception(60) or future.result() for future in futures]


def doubled(outcomes: list[Any], values: list[int]) -> list[int]:
    """Checks that each got its own answer; returns how many samples were in its call."""
    assert [int(each["y"][0]) for each in outcomes] == [2 * value for value in values]
    return [int(each["together"][0]) for each in outcomes]


def learned(client: Client, method: str) -> BatchesRun | None:
    """What the replica has told of a method's batches."""
    kinds = [kind for one in status(client).deployments for each in one.replicas for kind in each.learned]
    return next((kind for kind in kinds if kind.method == method), None)


def unanswered(client: Client) -> int:
    """How many requests the daemon has not answered."""
    return waiting(client) + sum(each.queued for each in status(client).deployments)


def waiting(client: Client) -> int:
    """How many requests the replica has not answered."""
    return sum(each.waiting for one in status(client).deployments for each in one.replicas)


def test_requests_that_wait_run_together(client: Client) -> None:
    values = list(range(200))
    assert max(doubled(results(client, "plain", values), values)) >= 8


def test_a_single_request_waits_for_nobody(client: Client) -> None:
    assert doubled(results(client, "plain", [7]), [7]) == [1]


def test_a_request_of_many_samples_is_never_cut(client: Client) -> None:
    x = np.arange(1000)
    found = client.infer("batches.small", x)
    assert found["y"].tolist() == (2 * x).tolist()
    assert set(found["together"]) == {1000}


def test_the_methods_own_limit_holds(client: Client) -> None:
    values = list(range(100))
    assert set(doubled(results(client, "small", values), values)) <= {1, 2, 3, 4}


def test_a_method_may_wait_for_company(client: Client) -> None:
    values = list(range(100))  # it has to learn that larger batches do no harm
    doubled(results(client, "patient", values), values)
    assert doubled(results(client, "patient", [1, 2]), [1, 2]) == [2, 2]


def test_only_requests_with_the_same_parameters_share_a_batch(client: Client) -> None:
    futures = [
        client.submit("batches.with_parameters", np.array([n]), parameters={"times": 1 + n % 2}) for n in range(120)
    ]
    found = [future.result(60) for future in futures]
    assert [int(each["y"][0]) for each in found] == [2 * n * (1 + n % 2) for n in range(120)]
    assert max(int(each["together"][0]) for each in found) > 1


def test_mixed_shapes_and_not_a_number_go_through(client: Client) -> None:
    inputs = [np.full((1 + n % 3, n % 5), np.nan if n % 2 else n, np.float32) for n in range(100)]
    for given, found in zip(inputs, client.map("batches.shapes", inputs), strict=True):
        np.testing.assert_array_equal(found["v"], given)


def test_ragged_inputs_are_padded_and_cut_back(client: Client) -> None:
    inputs = [np.arange(n % 7, dtype=np.int32).reshape(1, -1) for n in range(100)]
    together = []
    for given, found in zip(inputs, client.map("batches.ragged", inputs), strict=True):
        assert found["next"].tolist() == (given + 1).tolist()
        together.append(int(found["together"][0]))
    assert max(together) > 1


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("raises", ServableError, r"ValueError: negative: -\d+"),
        ("names", ServableError, r"sample 0 of the request: negative: -\d+"),
        ("names_nobody", ServableError, r"whose\?"),
        ("loses_one", InvalidOutput, r"called with 1 samples and returned 0"),
    ],
)
def test_only_those_at_fault_fail(client: Client, method: str, error: type[HpcserveError], message: str) -> None:
    values = [-n if n in (20, 21, 77) else n for n in range(100)]
    outcomes = results(client, method, values)
    good = [index for index, value in enumerate(values) if value >= 0]
    doubled([outcomes[index] for index in good], [values[index] for index in good])
    for index in (20, 21, 77):
        with pytest.raises(error, match=message):
            raise outcomes[index]


def test_a_batch_that_has_no_memory_is_halved_from_then_on(client: Client) -> None:
    values = list(range(150))
    doubled(results(client, "hungry", values), values)

    def is_small() -> bool:
        kind = learned(client, "hungry")
        return kind is not None and kind.batches > 2 and kind.limit <= 6

    until(is_small, "its batches have fewer samples than there is memory for")
    doubled(results(client, "hungry", values), values)
    assert is_small()


def test_a_batch_beyond_the_memory_of_its_process_is_halved(daemon: Daemon, client: Client) -> None:
    daemon.deploy(client, SERVABLES / "confined")
    pids = daemon.replica_pids(client, "confined")

    def is_halved() -> bool:
        """How large batches become depends on how soon requests come: not each round finds where memory ends."""
        futures = [client.submit("confined.fill", np.array([n])) for n in range(150)]
        found = [future.result(60) for future in futures]
        assert [int(each["y"][0]) for each in found] == list(range(150))
        assert max(int(each["together"][0]) for each in found) > 1
        kind = learned(client, "fill")
        return kind is not None and 4 <= kind.limit < 24

    until(is_halved, "its batches have fewer samples than there is memory for")
    with pytest.raises(ServableError, match="MemoryError"):
        client.infer("confined.fill", np.arange(40))
    assert client.infer("confined.fill", np.array([5]))["y"].tolist() == [5]
    assert daemon.replica_pids(client, "confined") == pids


@pytest.mark.parametrize("method", ["dies", "segfaults"])
def test_the_batch_mates_of_a_crasher_are_answered(client: Client, method: str) -> None:
    values = [-1 if n == 30 else n for n in range(60)]
    outcomes = results(client, method, values)
    assert isinstance(outcomes[30], PoisonRequest)
    del outcomes[30], values[30]
    doubled(outcomes, values)


def test_a_method_that_must_not_run_twice_is_not_batched(client: Client) -> None:
    values = list(range(60))
    assert set(doubled(results(client, "once", values), values)) == {1}


def test_a_method_may_change_its_parameters(client: Client) -> None:
    futures = [client.submit("batches.takes_out", np.array([n]), parameters={"times": 10}) for n in (*range(60), -5)]
    for n, future in enumerate(futures[:-1]):
        assert future.result(60)["y"].tolist() == [20 * n]
    with pytest.raises(ServableError, match="negative"):
        futures[-1].result(60)


def test_inputs_that_do_not_fit_harm_no_others(client: Client) -> None:
    odd: dict[int, tuple[Any, str]] = {
        10: ({"x": np.arange(3), "k": np.arange(2)}, "'x' has 3, 'k' has 2"),
        20: ({"x": np.zeros((2, 2), np.int64), "k": np.arange(2)}, "shape"),
        30: ({"x": np.zeros(2), "k": np.arange(2)}, "int64"),
        40: ({"x": np.arange(2)}, "'k'"),
    }
    inputs = [odd[n][0] if n in odd else {"x": np.full(n % 4, n), "k": np.full(n % 4, 3)} for n in range(60)]
    futures = [client.submit("batches.two", each) for each in inputs]
    together = []
    for n, future in enumerate(futures):
        if n in odd:
            with pytest.raises(InvalidInput, match=odd[n][1]):
                future.result(60)
        else:
            assert future.result(60)["y"].tolist() == [3 * n] * (n % 4)
            together += future.result(60)["together"].tolist()
    assert max(together) > 3


def test_every_deadline_is_its_own(client: Client) -> None:
    blocker = client.submit("batches.until_cancelled", np.array([1]))
    until(lambda: waiting(client) == 1, "it runs")
    century_s = 100 * 365.25 * 86_400
    deadlines_s = [0.0, 0.2, century_s, None] * 5
    futures = [
        client.submit("batches.plain", np.array([n]), timeout_s=timeout_s) for n, timeout_s in enumerate(deadlines_s)
    ]
    late = [n for n, timeout_s in enumerate(deadlines_s) if timeout_s is not None and timeout_s < 1]
    for n in late:
        assert isinstance(futures[n].exception(20), DeadlineExceeded)
    blocker.cancel()
    for n in set(range(len(futures))) - set(late):
        found = futures[n].result(20)
        assert found["y"].tolist() == [2 * n]
        assert found["together"][0] <= len(futures) - len(late)  # what was late is left out


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_method_hears_that_nobody_waits_any_more(client: Client, how: str) -> None:
    timeout_s = 6.0 if how == "deadline" else 60.0
    future = client.submit("batches.until_cancelled", np.array([1]), timeout_s=timeout_s)
    until(lambda: waiting(client) == 1, "it runs")
    if how == "cancel":
        assert future.cancel()
    began = time.monotonic()
    assert doubled(results(client, "plain", [3]), [3]) == [1]
    assert time.monotonic() - began < 20  # it would have run for a minute


def test_a_batch_goes_on_until_nobody_waits_for_any_of_it(client: Client) -> None:
    blocker = client.submit("batches.until_cancelled", np.array([1]))
    until(lambda: waiting(client) == 1, "it runs")
    doomed = [client.submit("batches.together_until_cancelled", np.array([n]), timeout_s=60) for n in (1, 2, 3)]
    # How many a replica is given beforehand depends on how fast it was.
    until(lambda: unanswered(client) == 4, "they are at the replica, or wait for it")
    blocker.cancel()
    doomed[0].cancel()
    behind = client.submit("batches.plain", np.array([4]))
    with pytest.raises(TimeoutError):
        behind.result(0.3)
    for each in doomed[1:]:
        each.cancel()
    assert behind.result(20)["y"].tolist() == [8]


def test_a_deployment_turns_batches_off_and_says_so(client: Client) -> None:
    servable = next(each for each in status(client).servables if each.name == "batches")
    wanted = admin.Deploy(servable=f"batches@{servable.version}", max_batch_size=1, objective_ms=50.0)
    client.call("deploy", wanted, admin.Deployed)
    values = list(range(100))
    until(
        lambda: set(doubled(results(client, "plain", values), values)) == {1},
        "the replica that runs has heard of it",
    )
    view = next(each for each in status(client).deployments if each.deployment == "batches")
    assert (view.max_batch_size, view.objective_ms) == (1, 50.0)
    again = client.call("deploy", msgspec.structs.replace(wanted, max_batch_size=None), admin.Deployed)
    assert again.unset == {"max_batch_size": 1}
    with pytest.raises(InvalidInput, match="max_batch_size is 0"):
        client.call("deploy", admin.Deploy(servable="batches", max_batch_size=0), admin.Deployed)
    with pytest.raises(InvalidInput, match="objective_ms is -1"):
        client.call("deploy", admin.Deploy(servable="batches", objective_ms=-1.0), admin.Deployed)


def test_status_tells_what_was_learned(client: Client) -> None:
    values = list(range(300))
    doubled(results(client, "plain", values), values)

    kind = until(lambda: learned(client, "plain"), "a replica tells of its batches")
    assert kind is not None
    assert 5_000 < kind.fixed_us + kind.per_sample_us < 100_000
    assert kind.mean >= 1
    assert kind.batches >= 1
