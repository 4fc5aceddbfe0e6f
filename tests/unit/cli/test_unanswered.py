"""Calls that are made again until the daemon answers: when that is said."""

from __future__ import annotations

import queue
from typing import TypeVar

import pytest

from hpcserve.cli.unanswered import Unanswered
from hpcserve.errors import Conflict, ServiceUnavailable
from hpcserve.wire.admin import Admin, WhoAmI

T = TypeVar("T")


class Daemon:
    """Answers, or does not."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked: list[tuple[str, Admin]] = []

    def call(self, verb: str, arguments: Admin, answer: type[T]) -> T:
        self.asked.append((verb, arguments))
        if self.error is not None:
            raise self.error
        return answer()


def test_that_nobody_answers_is_said_once_until_somebody_does() -> None:
    daemon, said = Daemon(), queue.SimpleQueue[str]()
    ask = Unanswered(daemon.call, said.put, silent_s=0.05)
    for _ in range(2):
        daemon.error = ServiceUnavailable("no daemon answers")
        with pytest.raises(ServiceUnavailable):
            ask("whoami", WhoAmI(), WhoAmI)
        assert "hpcserve up" in said.get(timeout=60)
        with pytest.raises(ServiceUnavailable):
            ask("whoami", WhoAmI(), WhoAmI)
        daemon.error = None
        ask("whoami", WhoAmI(), WhoAmI)
        assert said.empty()


@pytest.mark.parametrize("error", [None, Conflict("too late")])
def test_of_a_daemon_that_answers_nothing_is_said(error: Exception | None) -> None:
    daemon, said = Daemon(), queue.SimpleQueue[str]()
    daemon.error = error
    ask = Unanswered(daemon.call, said.put, silent_s=0.5)
    if error is None:
        ask("whoami", WhoAmI(), WhoAmI)
    else:
        with pytest.raises(Conflict):
            ask("whoami", WhoAmI(), WhoAmI)
    with pytest.raises(queue.Empty):
        said.get(timeout=1.0)
