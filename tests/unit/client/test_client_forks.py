"""Owners are told in the child alone, and what they own is not destroyed there."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

import pytest

from hpcserve.client import forks

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


class Thing:
    """Something that can be watched."""

    def __init__(self) -> None:
        self.told = 0
        self.part: Thing | None = None

    def tell(self) -> None:
        self.told += 1
        forks.keep(self.part)
        self.part = None


def holds_in_a_child(condition: Callable[[], bool]) -> bool:
    pid = os.fork()
    if not pid:
        code = 2
        try:
            code = 0 if condition() else 1
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def test_an_owner_is_told_once_and_in_the_child_alone() -> None:
    owner = Thing()
    forks.watch(owner, Thing.tell)
    assert holds_in_a_child(lambda: owner.told == 1)
    assert owner.told == 0
    assert holds_in_a_child(lambda: holds_in_a_child(lambda: owner.told == 1))


def test_a_child_destroys_nothing_of_its_parents() -> None:
    owner, belonging, part = Thing(), Thing(), Thing()
    owner.part = part
    forks.watch(owner, Thing.tell, belonging)
    alive = [weakref.ref(belonging), weakref.ref(part)]
    del belonging, part
    assert holds_in_a_child(lambda: None not in [each() for each in alive])


def test_an_owner_is_not_kept_alive_by_being_watched() -> None:
    owner = Thing()
    forks.watch(owner, Thing.tell)
    gone = weakref.ref(owner)
    del owner
    assert gone() is None
