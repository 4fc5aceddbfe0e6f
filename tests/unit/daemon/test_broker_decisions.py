"""What the broker has decided reaches the controller, or its successor."""

from __future__ import annotations

import pytest

from hpcserve.core.access import Decision
from hpcserve.core.gate import Decided
from hpcserve.core.sessions import Session
from hpcserve.daemon.broker import decisions
from hpcserve.daemon.broker.decisions import Decisions
from hpcserve.types import Counter, SessionId
from hpcserve.wire.hub import Asker, CallsDecided, Identity


class Controller:
    """Hears the decisions while it is there."""

    def __init__(self) -> None:
        self.is_there = True
        self.heard: list[CallsDecided] = []

    def tell(self, message: CallsDecided) -> bool:
        if self.is_there:
            self.heard.append(message)
        return self.is_there

    @property
    def requests(self) -> list[int]:
        return [each.request for message in self.heard for each in message.decisions]


def decided(*ids: int) -> list[Decided]:
    session = Session(SessionId(b"s"))
    session.identity = Asker(Identity("ada"), session.id)
    return [Decided(session, Counter(id), "echo", Decision(allowed=True, by="owner")) for id in ids]


def test_they_are_told_once_and_in_order() -> None:
    controller = Controller()
    kept = Decisions(controller.tell)
    kept.add(decided(*range(250)))
    kept.send()
    kept.send()
    assert controller.requests == list(range(250))
    assert max(len(message.decisions) for message in controller.heard) == decisions.AT_ONCE


def test_what_a_controller_had_not_written_is_told_to_the_next() -> None:
    controller = Controller()
    kept = Decisions(controller.tell)
    kept.add(decided(1, 2, 3))
    kept.send()
    kept.noted(2)
    controller.is_there = False
    kept.add(decided(4))
    kept.send()
    controller.is_there, controller.heard = True, []
    kept.send_again()
    assert controller.requests == [3, 4]


def test_while_there_is_no_controller_so_many_are_kept_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "KEPT", 10)
    controller = Controller()
    controller.is_there = False
    kept = Decisions(controller.tell)
    for id in range(25):
        kept.add(decided(id))
        kept.send()
    controller.is_there = True
    kept.send_again()
    assert controller.requests == list(range(15, 25))
    assert [message.lost for message in controller.heard] == [15]
