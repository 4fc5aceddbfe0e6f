"""The controller goes on listening while calls and enrolments take long, and bounds how many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec

from hpcserve.daemon.controller.__main__ import MOST_CALLS, MOST_ENROLMENTS, _listen
from hpcserve.daemon.controller.admin import Admin
from hpcserve.daemon.controller.controller import Controller
from hpcserve.types import ReplicaId, SessionId
from hpcserve.wire import hub


class Slow:
    """A controller and its administrative calls, in which nothing ends before it may."""

    def __init__(self, *messages: hub.ToController) -> None:
        self.hub = self
        self.may_end = asyncio.Event()
        self.heard: list[str] = []
        self._messages = messages

    async def messages(self) -> AsyncIterator[Any]:
        for message in self._messages:
            yield message
        self.heard.append("all")
        self.may_end.set()

    async def answer(self, call: hub.ClientCalls) -> None:
        await self.may_end.wait()
        self.heard.append(f"call {call.id}")

    async def enrol(self, ask: hub.EnrolAsk) -> None:
        await self.may_end.wait()
        self.heard.append(f"enrolment {ask.ticket}")

    def refuse(self, message: hub.ClientCalls | hub.EnrolAsk) -> None:
        number = message.id if isinstance(message, hub.ClientCalls) else message.ticket
        self.heard.append(f"refused {number}")

    def replica_idle(self, message: hub.ReplicaIdle) -> None:
        self.heard.append(message.replica)


ADA = hub.Asker(hub.Identity("ada"), SessionId(b"s"))


def heard(*messages: hub.ToController) -> list[str]:
    async def scenario() -> list[str]:
        slow = Slow(*messages)
        await asyncio.wait_for(_listen(cast("Controller", slow), cast("Admin", slow)), 30)
        return slow.heard

    return asyncio.run(scenario())


def call(number: int) -> hub.ClientCalls:
    return hub.ClientCalls(b"c", "ada", number, "status", msgspec.Raw(b"\x80"), ADA)


def ask(number: int) -> hub.EnrolAsk:
    return hub.EnrolAsk(number, b"k", "p", "one", "secret", "here")


def test_what_is_quick_does_not_wait_for_what_is_slow() -> None:
    idle = hub.ReplicaIdle(ReplicaId("r"))
    assert heard(call(1), ask(2), idle) == ["r", "all", "call 1", "enrolment 2"]


def test_more_calls_than_there_may_be_are_refused() -> None:
    found = heard(*(call(number) for number in range(MOST_CALLS + 2)), ask(1))
    assert found[:3] == [f"refused {MOST_CALLS}", f"refused {MOST_CALLS + 1}", "all"]
    assert len(found) == 3 + MOST_CALLS + 1


def test_more_enrolments_than_there_may_be_are_refused() -> None:
    found = heard(*(ask(number) for number in range(MOST_ENROLMENTS + 1)), call(1))
    assert found[:2] == [f"refused {MOST_ENROLMENTS}", "all"]
    assert len(found) == 2 + MOST_ENROLMENTS + 1
