"""Calls that are made again until the daemon answers: when that is said."""

from __future__ import annotations

import queue
import threading
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


def test_what_the_daemon_says_is_told_once_until_it_answers() -> None:
    daemon, said = Daemon(), queue.SimpleQueue[str]()
    ask = Unanswered(daemon.call, said.put, silent_s=0.05)
    for _ in range(2):
        daemon.error = ServiceUnavailable("Globus gives no answer (HTTP 503)\x1b")
        with pytest.raises(ServiceUnavailable):
            ask("whoami", WhoAmI(), WhoAmI)
        told = said.get(timeout=60)
        assert told.startswith("Globus gives no answer (HTTP 503)\\x1b; it is asked again")
        assert "hpcserve up" not in told, "it is there"
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


def test_that_nothing_is_heard_is_told_and_then_what_is_heard() -> None:
    said, go_on = queue.SimpleQueue[str](), threading.Event()

    class Slow(Daemon):
        def call(self, verb: str, arguments: Admin, answer: type[T]) -> T:
            assert go_on.wait(60)
            return super().call(verb, arguments, answer)

    daemon = Slow()
    daemon.error = ServiceUnavailable("Globus gives no answer (HTTP 503)")
    ask = Unanswered(daemon.call, said.put, silent_s=0.05)

    def call() -> None:
        for _ in range(2):
            with pytest.raises(ServiceUnavailable):
                ask("whoami", WhoAmI(), WhoAmI)

    calling = threading.Thread(target=call)
    calling.start()
    assert "hpcserve up" in said.get(timeout=60)
    go_on.set()
    calling.join(60)
    assert said.get(timeout=60).startswith("Globus gives no answer (HTTP 503); it is asked again")
    assert said.empty()
