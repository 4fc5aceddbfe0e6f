"""Requests of servable ``tally``, all sent at once, and the losses of those who run them."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np

from hpcserve import Client
from tests.facility.service import Facility, status, until
from tests.integration.daemon_tree import Daemon

LONG_S = 120.0


def requests(
    facility: Facility | Daemon, client: Client, endpoint: str, count: int, sleep_s: float
) -> list[Future[Any]]:
    """So many calls at once, of which each writes down when it is begun."""
    parameters = {"log": str(facility.home / "ran"), "sleep_s": sleep_s}
    return [
        client.submit(f"{endpoint}.again", np.int64(n), parameters=parameters, timeout_s=LONG_S) for n in range(count)
    ]


def all_answered(futures: list[Future[Any]]) -> None:
    assert [int(future.result(LONG_S)["n"]) for future in futures] == list(range(len(futures)))


def under_way(futures: list[Future[Any]]) -> None:
    until(lambda: sum(future.done() for future in futures) >= len(futures) // 10, "requests are answered")


def losses(client: Client) -> dict[str, str]:
    """The kind of each loss, by replica."""
    return {each.replica: each.kind for each in status(client).losses}
