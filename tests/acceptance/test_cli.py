"""The command line as its users drive it: real processes, a home of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from hpcserve import examples
from hpcserve.config import Recovery
from hpcserve.wire.record import decode_record
from tests.acceptance.newcomer import User, begun, until, user_in

MANIFEST = """\
name = "broken"
loader = "python"
entry = "broken:Broken"
"""
CODE = """\
from hpcserve import Tensor, method

class Broken:
    def setup(self, context) -> None:
        {setup}

    @method(inputs={{"x": Tensor("float32", [-1])}}, outputs={{"x": Tensor("float32", [-1])}})
    def go(self, x):
        {go}
"""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with user_in(tmp_path / "home") as found:
        yield found


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user whose daemon serves ``echo`` and ``pi``."""
    with user_in(tmp_path_factory.mktemp("serving")) as found:
        found.ok("up", "--detach")
        assert found.ok("publish", examples.path("echo"), "--alias", "stable").startswith("published echo@")
        found.ok("publish", examples.path("pi"))
        assert found.ok("deploy", "echo@stable", "--replicas", "2").endswith(", ready\n")
        found.ok("deploy", "pi")
        found.ok("publish", several(found.home / "two"))
        found.ok("deploy", "two")
        yield found
        assert found.ok("down") == f"the daemon of site local on {socket.gethostname()} is down\n"
        assert found.processes() == []


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def broken(directory: Path, *, setup: str = "pass", go: str = "return x") -> Path:
    directory.mkdir()
    (directory / "servable.toml").write_text(MANIFEST)
    (directory / "broken.py").write_text(CODE.format(setup=setup, go=go))
    return directory


def several(directory: Path) -> Path:
    """A servable with two methods, of which none is ``predict``."""
    directory.mkdir()
    (directory / "servable.toml").write_text('name = "two"\nloader = "python"\nentry = "two:Two"\n')
    declared = '    @method(inputs={"x": Tensor("float32", [-1])}, outputs={"x": Tensor("float32", [-1])})\n'
    methods = "".join(f"{declared}    def {name}(self, x):\n        return x\n" for name in ("one", "other"))
    (directory / "two.py").write_text(f"from hpcserve import Tensor, method\n\nclass Two:\n{methods}")
    return directory


# --- calls --------------------------------------------------------------------------------------------


def test_json_in_and_json_out(serving: User) -> None:
    assert serving.ok("run", "echo.echo", "--input", "-", given=b'{"x": [1, 2.5]}') == '{"x": [1.0, 2.5]}\n'
    assert serving.ok("run", "pi", "-i", "-", given=b"5") == '{"digits": "3.14159"}\n'


def test_files_in_and_files_out(serving: User, tmp_path: Path) -> None:
    numbers = np.linspace(0, 1, 1000, dtype=np.float32)
    np.save(tmp_path / "x.npy", numbers)
    serving.ok("run", "echo.echo", "--input", f"x={tmp_path / 'x.npy'}", "--output", tmp_path / "y.npz")
    serving.ok("run", "echo.echo", "--input", tmp_path / "y.npz", "--output", tmp_path / "z.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), numbers)


def test_what_came_in_a_file_of_the_site_is_written_in_any_format(serving: User, tmp_path: Path) -> None:
    for numbers in (np.arange(4, dtype=np.float32), np.zeros(0, np.float32)):
        np.save(tmp_path / "x.npy", numbers)
        staged = ("run", "echo.echo", "--input", f"x={tmp_path / 'x.npy'}", "--reply", "staged", "--output")
        for name in ("y.npy", "y.npz", "y.json", "y.h5"):
            serving.ok(*staged, tmp_path / name)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), numbers)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["x"], numbers)
        assert json.loads((tmp_path / "y.json").read_text()) == {"x": numbers.tolist()}
        assert json.loads(serving.ok(*staged, "-")) == {"x": numbers.tolist()}


def test_the_items_of_a_stream_are_lines_of_json(serving: User, tmp_path: Path) -> None:
    called = tmp_path / "called"
    serving.ok("publish", broken(tmp_path / "broken", go=f"open({str(called)!r}, 'w'); yield x; yield x + 1; x[1]"))
    serving.ok("deploy", "broken", "--endpoint", "yields")
    lines = '{"x": [1.0, 2.0]}\n{"x": [2.0, 3.0]}\n'
    assert serving.ok("run", "yields", "-i", "-", given=b"[1, 2]") == lines
    assert serving.ok("run", "yields", "-i", "-", "-o", "-", given=b"[1, 2]") == lines
    assert serving.ok("run", "yields", "-i", "-", "-o", tmp_path / "y.json", given=b"[1, 2]") == ""
    assert (tmp_path / "y.json").read_text() == lines
    broken_off = serving.run("run", "yields", "-i", "-", given=b"[1]")
    assert (broken_off.returncode, broken_off.stdout) == (1, b'{"x": [1.0]}\n{"x": [2.0]}\n')
    assert b"IndexError" in broken_off.stderr
    called.unlink()
    said = serving.fails(2, "run", "yields", "-i", "-", "-o", tmp_path / "y.npy", given=b"[1]")
    assert "write a .json file" in said
    serving.ok("undeploy", "yields")
    assert not called.exists(), "refused before the call"


def test_ctrl_c_ends_the_producer_of_an_endless_stream(serving: User, tmp_path: Path) -> None:
    """Long before the daemon would take a silent client for dead; also while the broker is too busy to listen."""
    serving.ok("publish", examples.path("walk"))
    serving.ok("deploy", "walk")
    np.save(tmp_path / "start.npy", np.zeros(3))
    found, broker = tmp_path / "y.json", serving.status()["processes"]["broker"]
    to_file = ("--output", str(found))
    for options, is_busy in (((), False), (to_file, False), (to_file, True)):
        process = serving.start("run", "walk", "--input", tmp_path / "start.npy", "--timeout", "inf", *options)
        until(lambda: _unfinished(serving, "walk") == 1)
        if options:
            until(lambda: found.exists() and found.stat().st_size > 1 << 20)
        if is_busy:
            os.kill(broker, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=30)
        finally:
            os.kill(broker, signal.SIGCONT)
        assert (process.returncode, complaints) == (130, "")
        until(lambda: _unfinished(serving, "walk") == 0, Recovery().session_linger_s / 3)
        found.unlink(missing_ok=True)
    serving.ok("undeploy", "walk")


def _unfinished(user: User, endpoint: str) -> int:
    """How many requests the replicas of a deployment hold that have not ended."""
    found = next(each for each in user.status()["deployments"] if endpoint in each["endpoints"])
    return sum(each["waiting"] for each in found["replicas"])


def test_an_array_from_standard_input(serving: User) -> None:
    assert serving.ok("run", "echo.blob", "--input", "-", given=npy(np.arange(3, dtype=np.uint8))) == (
        '{"blob": [0, 1, 2]}\n'
    )


def test_parameters_are_json_or_text(serving: User) -> None:
    said = serving.ok("run", "echo.value", "-i", "value=-", "--param", "wrap=w", given=b'{"a": null}')
    assert json.loads(said) == {"value": {"w": {"a": None}}}
    assert json.loads(serving.ok("run", "echo.value", "-i", "value=-", "--param", "wrap=7", given=b"1")) == {
        "value": {"7": 1}
    }


def test_a_hundred_thousand_digits_reach_a_pipe_whole(serving: User) -> None:
    digits = json.loads(serving.ok("run", "pi", "-i", "-", given=b"100000"))["digits"]
    assert (len(digits), digits[:12], digits[-10:]) == (100_002, "3.1415926535", "5493624646")


@pytest.mark.parametrize(
    ("code", "arguments", "given", "told"),
    [
        (5, ["run", "ecko", "-i", "-"], b"[1]", "did you mean 'echo'?"),
        (5, ["run", "echo.eco", "-i", "-"], b"[1]", "did you mean 'echo'?"),
        (5, ["run", "echo.eco", "-i", "-"], npy([1]), "eco"),
        (5, ["run", "two", "-i", "-"], b"[1]", "several methods; name one as two.METHOD: one, other"),
        (1, ["run", "echo.echo", "-i", "-"], b'{"y": [1]}', "unknown input 'y'; known: x"),
        (1, ["run", "echo.echo", "-i", "-"], npy([1]), "has dtype int64, expected float32"),
        (1, ["run", "echo.echo", "-i", "-"], npy(np.zeros((2, 2), np.float32)), "has shape [2, 2], expected [any]"),
        (1, ["run", "echo.echo"], b"", "input 'x' missing"),
        (1, ["run", "pi", "-i", "-"], b"0", "ndigits = 0: expected 1 to 10000000"),
        (1, ["run", "pi", "-i", "-"], b"1.5", "no whole number"),
        (2, ["run", "pi", "-i", "/nowhere/x.npy"], b"", "cannot read /nowhere/x.npy"),
        (2, ["run", "pi", "-i", "-", "-o", "y.txt"], b"1", "expected a name that ends in .npy"),
        # It computes for a second or so: a replica that went on for recovery.hang_grace_s would be killed.
        (6, ["run", "pi", "-i", "-", "--timeout", "0.05"], b"100000", "deadline"),
        (5, ["deploy", "nothing"], b"", "nothing"),
        (5, ["deploy", "echo@nothing"], b"", "nothing"),
        (5, ["undeploy", "ecko"], b"", "did you mean 'echo'?"),
        (5, ["logs", "ecko"], b"", "ecko"),
        (1, ["publish", "/nowhere"], b"", "/nowhere"),
        (5, ["--service", "elsewhere", "status"], b"", "no service 'elsewhere'"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_code(
    serving: User, code: int, arguments: list[str], given: bytes, told: str
) -> None:
    said = serving.fails(code, *arguments, given=given)
    assert said.startswith("error: ")
    assert told in said.splitlines()[0]
    if code != 1:
        assert said.count("\n") == 1


# --- what is served -----------------------------------------------------------------------------------


def test_status_shows_what_is_served(serving: User) -> None:
    status = serving.status()
    states = {one["deployment"]: one["state"] for one in status["deployments"]}
    assert states == dict.fromkeys(("echo", "pi", "two"), "ready")
    shown = serving.ok("status")
    for word in ("echo", "pi", "2/2", "1/1", "stable", *(pilot["pilot"] for pilot in status["pilots"])):
        assert word in shown
    assert f"pids: {', '.join(f'{name} {pid}' for name, pid in status['processes'].items())}\n" in shown
    assert "\x1b" not in shown


def test_watching_prints_a_line_each_time_until_ctrl_c(serving: User) -> None:
    process = serving.start("status", "--watch", "--json")
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert lines[0]["uptime_s"] < lines[1]["uptime_s"]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")


def test_a_deployment_that_cannot_start_shows_its_traceback(serving: User, tmp_path: Path) -> None:
    serving.ok(
        "publish",
        broken(tmp_path / "broken", setup='print("loading", flush=True); raise RuntimeError("no such weights")'),
    )
    said = serving.fails(1, "deploy", "broken", "--endpoint", "bad")
    again, line, traceback = said.split("\n", 2)
    assert again == "starting again after: Broken.setup failed: RuntimeError: no such weights"
    assert line.startswith("error: deployment bad cannot start: ")
    assert traceback.startswith("Traceback (most recent call last):")
    assert "RuntimeError: no such weights" in traceback
    assert "loading\n" in serving.ok("logs", "bad")
    assert serving.ok("undeploy", "bad") == "bad is not served any more\n"


def test_deploying_again_says_what_is_no_longer_set(serving: User, tmp_path: Path) -> None:
    serving.ok("publish", broken(tmp_path / "broken"))
    serving.ok("deploy", "broken", "--endpoint", "set", "--max-queue-s", "2.5", "--kill-cancelled-after", "5")
    no_longer = "no longer set, as it was not given again: "
    again = serving.run("deploy", "broken", "--endpoint", "set", "--kill-cancelled-after", "5")
    assert again.returncode == 0
    assert again.stderr.decode().splitlines()[-1] == f"{no_longer}--max-queue-s 2.5"
    two = serving.run("deploy", "broken", "--endpoint", "set", "--kill-cancelled-after", "5", "--replicas", "2")
    assert no_longer not in two.stderr.decode()
    one = serving.run("deploy", "broken", "--endpoint", "set", "--kill-cancelled-after", "5")
    assert one.stderr.decode().splitlines()[-1] == f"{no_longer}--replicas 2"
    never = serving.run(
        "deploy", "broken", "--endpoint", "set", "--kill-cancelled-after", "inf", "--max-queue-s", "inf"
    )
    assert never.returncode == 0
    assert never.stderr.decode().splitlines()[-1] == f"{no_longer}--kill-cancelled-after 5"
    assert "max_batch_size is 2147483648; expected from 1 (no batches) to 2147483647" in serving.fails(
        1, "deploy", "broken", "--endpoint", "set", "--max-batch-size", str(1 << 31)
    )
    serving.ok("undeploy", "set")


def test_an_exception_of_the_servable_shows_its_traceback(serving: User, tmp_path: Path) -> None:
    serving.ok("publish", broken(tmp_path / "broken", setup="print('I am', flush=True)", go="raise KeyError('in')"))
    serving.ok("deploy", "broken")
    line, traceback = serving.fails(1, "run", "broken", "-i", "-", given=b"[1]").split("\n", 1)
    assert line.startswith("error: ")
    assert traceback.startswith("Traceback (most recent call last):")
    assert "KeyError: 'in'" in traceback
    assert "broken.py" in traceback
    assert serving.ok("logs", "broken", "--lines", "1") != ""
    assert "I am\n" in serving.ok("logs", "broken")
    serving.ok("undeploy", "broken")
    serving.fails(5, "run", "broken", "-i", "-", given=b"[1]")


def test_logs_are_followed(serving: User, tmp_path: Path) -> None:
    code = "print('saw', int(x[0]), flush=True); return x"
    serving.ok("publish", broken(tmp_path / "broken", go=code))
    serving.ok("deploy", "broken", "--endpoint", "talks")
    serving.ok("run", "talks", "-i", "-", given=b"[1]")
    process = serving.start("logs", "talks", "--follow")
    assert process.stdout is not None
    for number in (1, 2, 3):
        if number > 1:
            serving.ok("run", "talks", "-i", "-", given=f"[{number}]".encode())
        while (line := process.stdout.readline()) != f"saw {number}\n":
            assert line, f"the log ended before {number}"
            assert not line.startswith("saw"), "a line was shown twice, or too early"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    serving.ok("undeploy", "talks")


def test_publishing_the_same_again_is_no_new_version(serving: User) -> None:
    assert serving.ok("publish", examples.path("echo")).startswith("there already: echo@")


# --- services -----------------------------------------------------------------------------------------


def test_services_are_named_pinned_and_forgotten(serving: User, user: User) -> None:
    record = decode_record(serving.record.read_bytes(), "it")
    (user.home).mkdir(mode=0o700)
    user.environment["HPCSERVE_HOME"] = str(user.home)
    assert record.public_key in user.ok("service", "add", "there", serving.record.parent)
    assert "there" in user.ok("service", "list")
    user.ok("service", "use", "there")
    # Its key is not known to that daemon: refused within seconds, and not silently.
    assert user.fails(4, "status").startswith("error: ")
    assert "already" in user.fails(7, "service", "add", "there", serving.record)
    assert "no daemon runs" in user.fails(3, "service", "add", "elsewhere", user.home / "nothing.json")
    user.ok("service", "add", "--replace", "there", serving.record)
    assert "forgotten" in user.ok("service", "remove", "there")
    assert "there" not in user.ok("service", "list")
    assert "no service 'there'" in user.fails(5, "service", "use", "there")


def test_a_service_with_another_key_is_not_talked_to(serving: User) -> None:
    changed = json.loads(serving.record.read_text())
    place = serving.home / "copy.json"
    place.write_text(json.dumps(changed))
    serving.ok("service", "add", "copy", place)
    assert serving.ok("--service", "copy", "status", "--json")
    place.write_text(json.dumps(changed | {"public_key": "x" * 40}))
    assert "has another key than the one you pinned" in serving.fails(4, "--service", "copy", "status")
    serving.ok("service", "remove", "copy")


# --- up and down --------------------------------------------------------------------------------------


def test_without_a_daemon_down_is_done_already(user: User) -> None:
    assert user.ok("down").startswith("no daemon runs (")


def test_a_second_daemon_is_refused(serving: User) -> None:
    pid = serving.status()["processes"]["supervisor"]
    said = serving.fails(7, "up", "--detach")
    assert f"already runs on {socket.gethostname()} as pid {pid}" in said
    assert serving.status()["processes"]["supervisor"] == pid


def test_a_wrong_site_is_refused(user: User, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[pilots]\nslotz = 1\n")
    assert "slotz" in user.fails(2, "up", "--site", tmp_path / "my.toml")
    assert "no site named 'marss'" in user.fails(2, "up", "--site", "marss")
    assert user.processes() == []


def test_a_port_in_use_is_refused(user: User, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "my.toml").write_text(f"[network]\nfront_port = {port}\n")
        assert f"port {port} of 127.0.0.1 is in use" in user.fails(7, "up", "--site", tmp_path / "my.toml")
    until(user.gone)


def test_down_takes_the_named_site_down(user: User, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('base = "local"\n')
    user.ok("up", "--detach", "--site", tmp_path / "my.toml")
    assert user.processes() != []
    assert user.ok("down").startswith("no daemon runs (")
    assert user.ok("down", "--site", tmp_path / "my.toml").startswith("the daemon of site my on ")
    assert user.processes() == []


def test_down_finds_a_daemon_that_was_killed(user: User) -> None:
    user.ok("up", "--detach")
    for process in user.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended with the supervisor
            process.kill()
    until(user.gone)
    assert user.ok("down").startswith("no daemon runs any more: pid ")
    user.ok("up", "--detach")
    user.ok("down")
    assert user.processes() == []


@pytest.mark.parametrize("number", STOPS)
def test_up_in_the_foreground_ends_with_all_that_it_started(user: User, number: signal.Signals) -> None:
    process = user.start("up")
    assert process.stdout is not None
    assert "serves site local on" in process.stdout.readline()
    user.ok("publish", examples.path("echo"))
    user.ok("deploy", "echo")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        until(user.gone)
    else:
        assert (process.returncode, said) == (0, "stopping…\nthe daemon is down\n")
        assert user.processes() == []
    assert not user.record.exists()


@pytest.mark.parametrize("detach", [(), ("--detach",)])
@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_up_leaves_nothing_when_it_is_ended_early(
    user: User, number: signal.Signals, detach: tuple[str, ...], processes: int
) -> None:
    """At the moment when so many processes are there: the command itself, the supervisor, the first of its children."""
    process = user.start("up", *detach)
    until(lambda: begun(process) or process.poll() is not None)
    until(lambda: len(user.processes()) >= processes or process.poll() is not None)
    process.send_signal(number)
    said, told = process.communicate(timeout=60)
    assert told in ("", "stopping…\n", "stopping…\nthe daemon is down\n")
    if said and detach:
        user.ok("down")  # it was faster: the daemon may be on its own already, however the command ended
    until(user.gone)


@pytest.mark.parametrize(("stage", "number"), [("admitted", 9), ("admitted", 15), ("asking", 2), ("waiting", 2)])
def test_down_that_is_ended_early_takes_the_daemon_down_all_the_same_or_can_be_repeated(
    user: User, stage: str, number: signal.Signals
) -> None:
    """Whoever has to speak next is stopped, so that the signal surely meets ``down`` at that stage."""
    user.ok("up", "--detach")
    user.ok("publish", examples.path("echo"))
    user.ok("deploy", "echo")
    status = user.status()
    (pilot,) = status["pilots"]
    silent = status["processes"]["admission" if stage == "admitted" else "controller"]
    os.kill(silent, signal.SIGSTOP)
    os.kill(pilot["pid"], signal.SIGSTOP)  # without a word of it, the daemon does not get on with going down
    process = user.start("down")
    until(lambda: _speaks(process.pid, "tcp" if stage == "admitted" else "unix"))
    if stage == "waiting":
        os.kill(silent, signal.SIGCONT)
        until(lambda: not _speaks(process.pid, "unix"))
    assert process.poll() is None
    process.send_signal(number)
    said = process.communicate(timeout=60)
    assert (process.returncode, said[0]) == (130 if number == signal.SIGINT else -number, "")
    told = {
        "asking": "interrupted: the daemon may not have been told",
        "waiting": "interrupted: the daemon is going down",
    }
    assert said[1].startswith(told.get(stage, ""))
    assert len(said[1].splitlines()) == (stage in told)
    assert psutil.pid_exists(status["processes"]["supervisor"])
    for pid in (silent, pilot["pid"]):
        os.kill(pid, signal.SIGCONT)
    if stage != "waiting":
        user.ok("down")
    until(user.gone)


def _speaks(pid: int, kind: str) -> bool:
    """Whether the process has a connection of this kind."""
    try:
        return any(each.status in ("ESTABLISHED", "NONE") for each in psutil.Process(pid).net_connections(kind=kind))
    except psutil.Error:
        return False


def test_a_daemon_that_went_down_lets_up_end(user: User) -> None:
    process = user.start("up")
    assert process.stdout is not None
    process.stdout.readline()
    user.ok("down")
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "the daemon is down\n")


def test_the_shell_gets_its_pipe_back(user: User) -> None:
    """A detached daemon holds none of the command's descriptors: ``$(hpcserve up --detach)`` returns."""
    assert "serves site local" in user.ok("up", "--detach")
    groups = set()
    for process in user.processes():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            groups.add(os.getpgid(process.pid))
    assert groups
    assert os.getpgrp() not in groups
    user.ok("down")
