"""The command line where something around it is wrong: streams, files, the environment, a daemon that was killed."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from hpcserve import examples
from tests.acceptance.newcomer import HPCSERVE, TIMEOUT_S, User, until, user_in

STREAM_CODE = 74
MACHINE = 8


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with user_in(tmp_path / "home") as found:
        yield found


def in_shell(user: User, redirections: str, *arguments: str, shell: str = "") -> subprocess.CompletedProcess[bytes]:
    """``hpcserve ARGUMENTS REDIRECTIONS`` as a shell runs it, after the commands ``shell``."""
    return subprocess.run(
        ["sh", "-c", f'{shell}"$@" {redirections}', "sh", *HPCSERVE, *arguments],
        env=user.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )


# --- standard streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redirection", "reason"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("down",), ("service", "list")])
def test_output_that_cannot_be_written_is_one_line_and_a_code(
    user: User, arguments: tuple[str, ...], redirection: str, reason: str
) -> None:
    done = in_shell(user, redirection, *arguments)
    told = f"error: cannot write to standard output: {reason}; send it elsewhere\n"
    assert (done.returncode, done.stderr.decode()) == (STREAM_CODE, told)


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_an_error_is_told_where_output_cannot_be_written(user: User, redirection: str) -> None:
    done = in_shell(user, redirection, "status")
    assert (done.returncode, done.stderr.startswith(b"error: no daemon runs here")) == (3, True)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_the_exit_code_says_what_standard_error_cannot(user: User, redirection: str) -> None:
    assert in_shell(user, redirection, "status").returncode == 3
    assert in_shell(user, redirection, "frob").returncode == 2
    assert in_shell(user, redirection, "down").returncode == (STREAM_CODE if redirection.count(">") > 1 else 0)


def test_a_closed_standard_input_cannot_be_read(user: User) -> None:
    user.ok("up", "--detach")
    done = in_shell(user, "<&-", "run", "x", "--input", "-")
    assert (done.returncode, done.stderr) == (2, b"error: cannot read standard input: Bad file descriptor\n")
    user.ok("down")


@pytest.mark.parametrize("redirection", [">&-", "<&- >&- 2>&-", ">/dev/full", "| true"])
def test_a_daemon_needs_no_stream_to_start(user: User, redirection: str) -> None:
    said = in_shell(user, redirection, "up", "--detach")
    assert said.returncode == 0
    if "2>" not in redirection and "|" not in redirection:
        assert b"serves site local" in said.stderr
    assert user.status()["site"] == "local"
    user.ok("down")
    assert user.processes() == []


# --- inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [("/dev/zero",), ("-",)])
def test_an_endless_input_is_read_to_what_the_service_takes(
    user: User, tmp_path: Path, inputs: tuple[str, ...]
) -> None:
    (tmp_path / "my.toml").write_text("[budgets]\nsession_bytes = 1000000\n")
    user.environment["HPCSERVE_SITE"] = str(tmp_path / "my.toml")
    user.ok("up", "--detach")
    # Should it be read without an end after all, the machine's memory is not its limit.
    done = in_shell(user, "< /dev/zero", "run", "x", "--input", *inputs, shell="ulimit -v 4000000; ")
    assert done.returncode == 1
    assert b"a request to this service has at most 1000000; send them in parts" in done.stderr
    user.ok("down")


def test_a_range_with_too_few_free_ports_is_told_with_their_number(user: User, tmp_path: Path) -> None:
    lab = tmp_path / "lab.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        lab.write_text(f'base = "local"\n[network]\nport_range = "{first}-{first + 2}"\n')
        said = user.fails(7, "up", "--detach", "--site", lab)
    told = (
        rf"(only [12]|none) of the ports {first}-{first + 2} of 127.0.0.1 (is|are) free, and the daemon needs 3 of them"
    )
    assert re.match(f"error: {told}: set .network. port_range ", said)


# --- a daemon that was killed -------------------------------------------------------------------------


def test_a_killed_supervisor_is_replaced_by_up(user: User) -> None:
    user.ok("up", "--detach")
    user.ok("publish", examples.path("echo"))
    user.ok("deploy", "echo")
    (pilot,) = user.status()["pilots"]
    pids = _kill_supervisor(user)
    said = user.fails(3, "status")
    assert said.endswith(f" on {socket.gethostname()}; if it was killed, start it there again: hpcserve up\n")
    left = user.run("down")
    assert left.returncode == MACHINE
    named = f"{pilot['pilot']}, job {pilot['job']}, may go on: its daemon ended without a word"
    assert named in left.stderr.decode()
    user.ok("up", "--detach")
    assert user.ok("run", "echo.echo", "--input", "-", given=b"[1]") == '{"x": [1.0]}\n'
    assert set(user.status()["processes"].values()).isdisjoint(pids)
    user.ok("down")
    assert user.processes() == []


def test_a_killed_supervisor_needs_no_down(user: User) -> None:
    user.ok("up", "--detach")
    _kill_supervisor(user)
    assert re.fullmatch(r"no daemon runs any more: pid \d+ .* ended without a word; no pilot.*\n", user.ok("down"))
    assert user.processes() == []


@pytest.mark.parametrize("moved", ["state", "state/authorized_keys", "shared"])
def test_a_daemon_whose_directories_were_moved_can_be_taken_down(user: User, moved: str) -> None:
    user.ok("up", "--detach")
    pid = user.status()["processes"]["supervisor"]
    place = user.home / "sites" / "local" / moved
    place.rename(place.with_name("moved"))
    if moved == "shared":
        assert f"the daemon (pid {pid}) has no service record at {user.record}" in user.fails(3, "status")
    said = user.ok("down")
    assert said.startswith("the daemon of site local ")
    if moved == "shared":
        assert said.endswith(f" is down (pid {pid}; there was no service record at {user.record})\n")
    until(user.gone)


def test_a_key_that_is_not_known_names_the_file(user: User) -> None:
    user.ok("up", "--detach")
    keys = user.home / "sites" / "local" / "state" / "authorized_keys"
    keys.rename(keys.with_name("moved"))
    told = (
        f"here, that is {keys}, which does not exist: if its directory was moved while the daemon runs, take it down "
    )
    assert told in user.fails(4, "status")
    user.ok("down")


def _kill_supervisor(user: User) -> set[int]:
    """Kills it, waits until its children have followed, and returns the pids of them all."""
    pids = user.status()["processes"]
    psutil.Process(pids["supervisor"]).send_signal(signal.SIGKILL)
    until(lambda: not {process.pid for process in user.processes()} & set(pids.values()))
    return set(pids.values())


# --- a site that does not exist -----------------------------------------------------------------------


def test_services_are_listed_whatever_the_site(user: User) -> None:
    user.environment["HPCSERVE_SITE"] = "marss"
    assert "none: no site named 'marss'; known: " in user.ok("service", "list")
