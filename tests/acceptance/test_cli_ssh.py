"""A user with a laptop and a login: services behind ssh, on the command line."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from hpcserve import examples
from hpcserve.cli.down import ASK_S
from hpcserve.cli.leaving import LOOK_BY_SSH_S
from hpcserve.cluster.processes import is_stopped
from hpcserve.wire.record import decode_record
from tests.acceptance.newcomer import HPCSERVE, User, until, user_in
from tests.integration.sshd import Sshd, sshd_in


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """The user on the login node, where a daemon serves ``echo``."""
    with user_in(tmp_path_factory.mktemp("login") / "home") as user:
        user.home.mkdir(mode=0o700)
        user.ok("up", "--detach")
        user.ok("publish", examples.path("echo"))
        user.ok("deploy", "echo")
        yield user
        user.ok("down")


@pytest.fixture(scope="module")
def sshd(serving: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_in(tmp_path_factory.mktemp("sshd"), {"HPCSERVE_HOME": str(serving.home)}) as made:
        yield made


@pytest.fixture
def user(sshd: Sshd, tmp_path: Path) -> Iterator[User]:
    """The same user on the laptop, with a home and a key of its own."""
    with user_in(tmp_path / "laptop") as made:
        made.home.mkdir(mode=0o700)
        made.environment["PATH"] = sshd.path
        yield made


@pytest.fixture
def known(user: User, serving: User, sshd: Sshd) -> Iterator[User]:
    """The user, whose laptop's key the daemon knows."""
    keys = serving.home / "sites" / "local" / "state" / "authorized_keys"
    before = keys.read_text()
    line = user.fails(4, "--service", sshd.address(), "status").rpartition(": YOUR-NAME ")[2]
    keys.write_text(f"{before}laptop {line}")
    until(lambda: user.run("--service", sshd.address(), "status").returncode == 0)
    yield user
    keys.write_text(before)


def test_a_service_behind_ssh_is_added_pinned_called_and_forgotten(known: User, serving: User, sshd: Sshd) -> None:
    record = decode_record(serving.record.read_bytes(), "it")
    said = known.ok("service", "add", "lab", sshd.address())
    assert said.startswith(f"lab: site local on {record.host}, key {record.public_key}\n")
    listed = known.ok("service", "list")
    assert sshd.address() in listed
    assert record.public_key in listed
    assert "already" in known.fails(7, "service", "add", "lab", sshd.address())
    known.ok("service", "use", "lab")
    assert known.status()["service"] == "local"
    assert known.ok("run", "echo.echo", "--input", "-", given=b"[1, 2]") == '{"x": [1.0, 2.0]}\n'
    known.ok("service", "remove", "lab")
    assert "no daemon runs here" in known.fails(3, "status"), "the laptop's own"


def test_what_is_published_is_where_the_daemon_is(known: User, sshd: Sshd) -> None:
    known.environment["HPCSERVE_SERVICE"] = sshd.address()
    assert known.ok("publish", examples.path("walk")).startswith("published walk@")
    assert "give the path there, from the root on" in known.fails(2, "publish", "walk")


def test_a_variable_may_be_an_address(known: User, sshd: Sshd) -> None:
    known.environment["HPCSERVE_SERVICE"] = sshd.address()
    assert known.status()["service"] == "local"


def test_another_pinned_key_is_told_with_the_command_that_takes_the_new_one(known: User, sshd: Sshd) -> None:
    known.ok("service", "add", "lab", sshd.address())
    services = known.home / "services.json"
    before = services.read_text()
    key = before.partition('"public_key": "')[2][:40]
    services.write_text(before.replace(key, "x" * 40))
    said = known.fails(4, "--service", "lab", "status")
    assert f"hpcserve service add --replace NAME {sshd.address()}" in said
    known.ok("service", "add", "--replace", "lab", sshd.address())
    assert services.read_text() == before


def test_what_is_wrong_is_one_line_with_what_to_do(user: User, sshd: Sshd) -> None:
    assert "expected ssh://[USER@]LOGIN" in user.fails(2, "service", "add", "lab", "ssh://")
    assert "?command=/path/to/hpcserve'" in user.fails(2, "service", "add", "lab", sshd.address(command="hpcserv"))
    assert "no daemon runs here" in user.fails(3, "service", "add", "lab", sshd.address(place="/no/where.json"))
    assert "no daemon runs here" in user.fails(3, "--service", sshd.address(place="/no/where.json"), "down")
    assert not (user.home / "services.json").exists()


def test_down_by_ssh_waits_until_the_daemon_is_gone_and_logs_in_no_more_for_that(
    known: User, serving: User, sshd: Sshd
) -> None:
    """A supervisor that was stopped is told to go on; without a word of its agent, the daemon stays for a while."""
    supervisor = psutil.Process(decode_record(serving.record.read_bytes(), "it").pid)
    until(lambda: [each["pid"] for each in serving.status()["pilots"]] not in ([], [None]))
    agent = psutil.Process(serving.status()["pilots"][0]["pid"])
    logins = sshd.logins
    try:
        agent.suspend()
        supervisor.suspend()
        down = known.start("--service", sshd.address(), "down")
        until(lambda: not is_stopped(supervisor.pid))
        with pytest.raises(subprocess.TimeoutExpired):
            down.wait(3 * LOOK_BY_SSH_S)
        agent.resume()
        said, _ = down.communicate(timeout=60)
        assert said.endswith(" is down\n")
        assert not serving.record.exists()
        assert sshd.logins - logins == 2, "one to read the record as often as need be, one to call the daemon"
    finally:
        for each in (agent, supervisor):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()
        serving.ok("up", "--detach")


def test_down_by_ssh_asks_a_daemon_that_does_not_answer_by_one_login(known: User, serving: User, sshd: Sshd) -> None:
    controller = psutil.Process(serving.status()["processes"]["controller"])
    logins = sshd.logins
    try:
        controller.suspend()
        down = known.start("--service", sshd.address(), "down")
        with pytest.raises(subprocess.TimeoutExpired):
            down.wait(2 * ASK_S + 1.0)
        controller.resume()
        said, _ = down.communicate(timeout=60)
        assert said.endswith(" is down\n")
        assert sshd.logins - logins == 2, "one to read the record as often as need be, one to call the daemon"
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            controller.resume()
        serving.ok("up", "--detach")


def test_ctrl_c_while_ssh_connects_ends_both(user: User, sshd: Sshd) -> None:
    waits = sshd.place / "waits"
    waits.write_text("#!/bin/sh\nexec cat >/dev/null\n")
    waits.chmod(0o755)
    logins = sshd.logins
    process = user.start("--service", sshd.address(command=str(waits)), "status")
    until(lambda: sshd.logins > logins)
    (ssh,) = psutil.Process(process.pid).children()
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, ("", ""))
    assert not ssh.is_running()


def test_connect_is_not_for_people_nor_for_other_programs(serving: User) -> None:
    assert "error: expected a client of hpcserve on standard input" in _connect(serving, b"hello\n" * 20)
    assert _connect(serving, b"") == "", "who goes at once is no error"
    terminal, theirs = pty.openpty()
    done = subprocess.run(
        [*HPCSERVE, "connect"], env=serving.environment, stdin=theirs, capture_output=True, check=False, timeout=60
    )
    os.close(theirs)
    os.close(terminal)
    assert done.returncode == 2
    assert b"hpcserve service add NAME ssh://" in done.stderr


def test_connect_leads_no_further_by_ssh(user: User) -> None:
    user.environment["HPCSERVE_SERVICE"] = "ssh://elsewhere"
    done = user.run("connect", given=b"")
    assert b"the service in use here is ssh://elsewhere" in done.stdout


def _connect(user: User, given: bytes) -> str:
    """What stands on standard error; a greeting on standard output."""
    done = user.run("connect", given=given)
    assert done.stdout.startswith(b"\nhpcserve-connect-greeting {")
    return done.stderr.decode()
