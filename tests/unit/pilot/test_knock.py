"""An agent looks at an address beside its connections, without ever waiting for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from hpcserve.cluster.reach import Obstacle
from hpcserve.pilot.knock import KNOCK_S, Knock
from hpcserve.pilot.watch import Watch
from tests.unanswered import unanswered

PATIENCE_S = 60.0


class Looks:
    """A knock, its watch, and what it told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[tuple[str, Obstacle]] = []
        self.watch = Watch()
        self.knock = Knock(self.watch, lambda: self.now, lambda *told: self.told.append(told))

    def turn_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until
            self.watch.turn(1.0)


@pytest.fixture
def looks() -> Iterator[Looks]:
    made = Looks()
    yield made
    made.knock.close()


def address_of(listener: socket.socket) -> str:
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def test_a_port_where_nobody_listens_is_told(looks: Looks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = address_of(gone)
    looks.knock.begin(address)
    looks.turn_until(lambda: bool(looks.told))
    assert [(where, found.kind) for where, found in looks.told] == [(address, "refused")]
    assert looks.knock.due_s is None


def test_of_what_can_be_reached_nothing_is_told(looks: Looks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        looks.knock.begin(address_of(there))
        looks.turn_until(lambda: looks.knock.due_s is None)
    assert looks.told == []


def test_what_does_not_answer_is_given_up_in_time(looks: Looks) -> None:
    with unanswered() as port:
        looks.knock.begin(f"tcp://127.0.0.1:{port}")
        looks.knock.begin("tcp://127.0.0.1:1")  # one at a time
        assert looks.knock.due_s == looks.now + KNOCK_S
        looks.knock.tick(looks.now + KNOCK_S - 0.1)
        assert looks.told == []
        looks.knock.tick(looks.now + KNOCK_S)
        ((address, found),) = looks.told
        assert (address, found.kind) == (f"tcp://127.0.0.1:{port}", "dropped")


def test_a_name_that_nobody_knows_is_told_at_once(looks: Looks) -> None:
    looks.knock.begin("tcp://no such name:7")
    assert [found.kind for _, found in looks.told] == ["unresolvable"]
