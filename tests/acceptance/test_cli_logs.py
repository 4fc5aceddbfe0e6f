"""``hpcserve logs`` of what prints nothing, the same again, or from several replicas."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve import examples
from tests.acceptance.newcomer import User, until, user_in


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with user_in(tmp_path_factory.mktemp("user")) as found:
        found.ok("up", "--detach")
        found.ok("publish", examples.path("echo"))
        found.ok("deploy", "echo", "--replicas", "2")
        yield found
        found.ok("down")


def replicas(user: User, state: str = "ready") -> list[str]:
    (echo,) = user.status()["deployments"]
    return [each["replica"] for each in echo["replicas"] if each["state"] == state]


def log_of(user: User, replica: str) -> Path:
    return user.record.parent / "logs" / f"{replica}.log"


def test_what_has_printed_nothing_says_so(user: User) -> None:
    for name in ("echo", replicas(user)[0]):
        done = user.run("logs", name)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"nothing printed yet\n")


def test_a_deployment_without_replicas_says_so(user: User) -> None:
    user.ok("deploy", "echo", "--endpoint", "paused", "--replicas", "0")
    done = user.run("logs", "paused")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"none of its replicas has been started yet; see: hpcserve status\n"
    user.ok("undeploy", "paused")


def test_following_shows_the_same_lines_again_and_new_logs(user: User) -> None:
    first, second = (log_of(user, replica) for replica in replicas(user))
    first.write_text("tick\n" * 1500)
    process = user.start("logs", "echo", "--follow", "--lines", "2")
    assert process.stdout is not None
    try:
        assert [process.stdout.readline() for _ in range(3)] == [f"==> {first.stem} <==\n", "tick\n", "tick\n"]
        with first.open("a") as log:
            log.write("tick\n" * 3000 + "end\n")
        shown = [process.stdout.readline() for _ in range(3001)]
        assert shown == ["tick\n"] * 3000 + ["end\n"]
        second.write_text("not whole")
        assert process.stdout.readline() == f"==> {second.stem} <==\n"
        assert process.stdout.read(9) == "not whole"
        with first.open("a") as log:
            log.write("again\n")
        assert [process.stdout.readline() for _ in range(3)] == ["\n", f"==> {first.stem} <==\n", "again\n"]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        for log_path in (first, second):
            log_path.unlink()
    assert process.returncode == 130


def test_a_deployment_that_has_no_replica_yet_has_an_empty_log(user: User) -> None:
    user.ok("deploy", "echo", "--endpoint", "none", "--replicas", "1", "--no-wait")
    assert user.run("logs", "none").returncode == 0
    user.ok("undeploy", "none")
    until(lambda: user.run("logs", "none").returncode == 5)
