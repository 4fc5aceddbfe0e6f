"""Questions to Globus, with real threads and a Globus that answers when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from select import select

import pytest

from hpcserve.core.tokens import Checked, Digest, Question
from hpcserve.daemon.admission.checks import Answered, Checks
from hpcserve.errors import ServiceUnavailable

LONG_S = 60.0
STRANGERS = 50


class SlowGlobus:
    """Answers at once about those who are in; about others when it is ``open``."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked: list[str] = []

    def check(self, question: Question, token: str) -> Checked:
        self.asked.append(token)
        if not question.first:
            self.open.wait(LONG_S)
        return Checked(expires_in_s=1.0)


@pytest.fixture
def globus() -> Iterator[SlowGlobus]:
    slow = SlowGlobus()
    yield slow
    slow.open.set()


def question(token: str, *, first: bool = False, until: float = float("inf")) -> Question:
    return Question(Digest(token), token=True, groups=False, first=first, until=until)


def answers(checks: Checks, count: int) -> list[Answered]:
    found: list[Answered] = []
    deadline = time.monotonic() + LONG_S
    while len(found) < count and time.monotonic() < deadline:
        select([checks], [], [], deadline - time.monotonic())
        found += checks.take()
    return found


def test_who_is_in_is_asked_about_while_all_other_threads_wait_for_strangers_tokens(globus: SlowGlobus) -> None:
    checks = Checks(lambda: globus, threads=4, kept=1)
    for number in range(STRANGERS):
        checks.ask(question(f"forged-{number}"), f"forged-{number}")
    for number in range(3):
        checks.ask(question(f"ada-{number}", first=True), f"ada-{number}")
    assert {str(each.question.digest) for each in answers(checks, 3)} == {"ada-0", "ada-1", "ada-2"}
    globus.open.set()
    assert len(answers(checks, STRANGERS)) == STRANGERS


def test_who_is_in_goes_before_the_strangers_that_are_in_line(globus: SlowGlobus) -> None:
    checks = Checks(lambda: globus, threads=1, kept=0)
    for token in ("forged-1", "forged-2", "ada"):
        checks.ask(question(token, first=token == "ada"), token)
    globus.open.set()
    assert len(answers(checks, 3)) == 3
    assert globus.asked.index("ada") <= 1, "at most the one that was under way came before"


def test_what_nobody_waits_for_any_more_is_not_asked_and_is_no_refusal(globus: SlowGlobus) -> None:
    checks = Checks(lambda: globus, threads=1, kept=0)
    checks.ask(question("late", until=time.monotonic() - 1.0), "late")
    ((_, checked),) = answers(checks, 1)
    assert isinstance(checked.error, ServiceUnavailable)
    assert globus.asked == []
