"""``hpcserve down`` where the daemon was on another host, and does not answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.acceptance.newcomer import User, until, user_in

NO_ANSWER = 3


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """The daemon was killed with all its processes; what it has written says that it was on ``login7``."""
    with user_in(tmp_path / "home") as found:
        found.ok("up", "--detach")
        supervisor = psutil.Process(json.loads(found.record.read_bytes())["pid"])
        for process in (supervisor, *supervisor.children(recursive=True)):
            process.kill()
        until(found.gone)
        for path in (found.record, lease(found)):
            change(path, host="login7")
        change(lease(found), boot="another", lease_s=2.0)
        yield found


def lease(user: User) -> Path:
    (path,) = user.record.parent.glob("lease-*.json")
    return path


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


def test_a_daemon_whose_lease_nobody_renews_may_be_dead_and_has_another_take_its_place(user: User) -> None:
    said = user.fails(NO_ANSWER, "down")
    assert "on login7" in said
    assert "its lease was not renewed for 2 s" in said
    assert "hpcserve up, which takes its place, then hpcserve down" in said
    user.ok("up", "--detach")
    user.ok("down")
    until(user.gone)


def test_a_lease_that_was_not_watched_for_as_long_as_it_lasts_tells_nothing(user: User) -> None:
    change(lease(user), lease_s=600.0)
    said = user.fails(NO_ANSWER, "down", "--timeout=1")
    assert "whether the daemon (pid " in said
    assert "was not watched for long enough; once more, with a longer --timeout: hpcserve down" in said
    assert "may be dead" not in said


def test_a_daemon_whose_lease_is_renewed_is_to_be_taken_down_there(user: User) -> None:
    over = threading.Event()

    def renew() -> None:
        number = 0.0
        while not over.wait(0.2):
            number += 1.0
            change(lease(user), renewed_s=number)

    holder = threading.Thread(target=renew)
    holder.start()
    try:
        said = user.fails(NO_ANSWER, "down")
    finally:
        over.set()
        holder.join()
    assert "on login7 lives, as its lease is renewed; take it down there: hpcserve down" in said


def test_one_that_takes_calls_and_answers_none_has_its_lease_watched_in_the_time_that_is_left(tmp_path: Path) -> None:
    with user_in(tmp_path / "home") as user:
        user.ok("up", "--detach")
        supervisor = psutil.Process(json.loads(user.record.read_bytes())["pid"])
        children = supervisor.children(recursive=True)
        supervisor.suspend()
        for each in children:
            if "controller" in " ".join(each.cmdline()):
                each.suspend()
        change(user.record, host="login7")
        change(lease(user), host="login7", boot="another", lease_s=2.0)
        try:
            said = user.fails(NO_ANSWER, "down", "--timeout=30")
        finally:
            for each in (supervisor, *children):
                each.kill()
        assert "its lease was not renewed for 2 s" in said
        assert "not watched for long enough" not in said
        until(user.gone)
