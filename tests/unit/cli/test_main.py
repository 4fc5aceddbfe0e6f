"""How a command ends: the line on standard error and the exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from hpcserve import config
from hpcserve.cli import status
from hpcserve.cli.main import main
from hpcserve.daemon import processes
from hpcserve.errors import HpcserveError, InvalidInput, ServableError
from hpcserve.wire.record import RECORD_NAME

HPCSERVE = (sys.executable, "-m", "hpcserve.cli.main")


ALONE = (
    "up",
    "down",
    "status",
    "publish",
    "share",
    "deploy",
    "undeploy",
    "run",
    "results",
    "transfers",
    "logs",
    "login",
    "logout",
    "whoami",
    "demo",
)
"""The commands that are one word."""


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Has ``hpcserve status`` fail in this way."""

    def fail(_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(status, "open_client", fail)


def test_an_error_is_one_line_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: no daemon runs here \(.*\); start one: hpcserve up\n", said.err)


def test_a_daemon_of_another_site_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    (config.home() / "sites").mkdir(parents=True)
    (config.home() / "sites" / "lab.toml").write_text('base = "local"\n')
    (config.home() / "sites" / "half.toml").write_text("base = ")
    record = config.load_site("lab").shared_dir / RECORD_NAME
    record.parent.mkdir(parents=True)
    record.touch()
    assert main(["status"]) == 3
    assert capsys.readouterr().err.endswith("; or call the one of site lab: export HPCSERVE_SITE=lab\n")


@pytest.mark.parametrize("argv", [["down", "--site", "lab"], ["doctor", "--site", "lab"], ["status"]])
def test_that_a_daemon_runs_is_told_where_its_site_file_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    monkeypatch.setenv("HPCSERVE_SITE", "lab")
    lab = config.home() / "sites" / "lab.toml"
    lab.parent.mkdir(parents=True)
    lab.write_text('base = "local"\n')
    place = config.runtime_dir(config.load_site("lab").state_dir)
    place.mkdir(mode=0o700, parents=True)
    lab.write_text("base = ")
    assert main(argv) == 2
    assert "daemon" not in capsys.readouterr().err
    processes.write(place, {processes.SUPERVISOR: os.getpid()})
    assert main(argv) == 2
    told = f"; its daemon runs on (pid {os.getpid()}): correct the file, then for example: hpcserve down --site lab\n"
    assert capsys.readouterr().err.endswith(told)


def test_down_passes_over_no_other_fault_than_that_of_the_site_file(capsys: pytest.CaptureFixture[str]) -> None:
    record = config.load_site("local").shared_dir / RECORD_NAME
    record.parent.mkdir(parents=True)
    record.touch()
    (config.home() / "services.json").write_text("{")
    assert main(["down"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {config.home() / 'services.json'}: ")
    assert said.count("\n") == 1


def test_a_site_that_is_not_complete_hides_nothing_about_a_named_service(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config.home().mkdir(parents=True, exist_ok=True)
    services = {"services": {"prod": {"record": str(tmp_path / "service.json")}}}
    (config.home() / "services.json").write_text(json.dumps(services))
    monkeypatch.setenv("HPCSERVE_SITE", "frontier")
    assert main(["--service", "prod", "status"]) == 3
    assert capsys.readouterr().err.startswith("error: no daemon runs here")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--frob"], r"error: no such option '--frob'; see: hpcserve --help\n"),
        (["status", "--frob"], r"error: no such option '--frob'; see: hpcserve status --help\n"),
        (["status", "--jsno"], r"error: no such option '--jsno'; did you mean '--json'\?\n"),
        (["frob"], r"error: no such command 'frob'; known: .*; see: hpcserve --help\n"),
        (["staus"], r"error: no such command 'staus'; did you mean 'status'\?\n"),
        (["service", "lst"], r"error: no such command 'lst'; did you mean 'list'\?\n"),
        (["--frob", "status"], r"error: no such option '--frob'; see: hpcserve --help\n"),
        (["service"], r"error: missing command; see: hpcserve service --help\n"),
        (
            ["deploy", "x", "--replicas", "many"],
            r"error: invalid value for '--replicas': .*; see: hpcserve deploy --help\n",
        ),
        (
            ["run", "x", "--param", "k"],
            r"error: invalid value for --param: 'k': expected K=V; see: hpcserve.* --help\n",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_2(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert re.fullmatch(line, capsys.readouterr().err)


@pytest.mark.parametrize("command", [["run", "x"], ["down"], ["deploy", "x"]])
@pytest.mark.parametrize("timeout", ["nan", "-1", "0", "-inf", "x", ""])
def test_a_timeout_that_cannot_be_meant_is_wrong_usage(
    command: list[str], timeout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, f"--timeout={timeout}"]) == 2
    told = (
        f"error: invalid value for '--timeout': {timeout!r}: expected a number of seconds greater than 0, or inf; see: "
    )
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize("lines", ["-1", "1e3", "1.5", "", "many", "²", "9" * 30])
def test_a_count_that_cannot_be_meant_is_wrong_usage(lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "x", f"--lines={lines}"]) == 2
    told = f"error: invalid value for '--lines' / '-n': {lines!r}: expected a whole number from 0 to 999999999; see: "
    assert capsys.readouterr().err.startswith(told)


def test_the_home_of_nobody_is_told_before_a_daemon_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "~nobody-of-this-name/servable"]) == 2
    told = "error: cannot find ~nobody-of-this-name/servable: no user of this machine has this name\n"
    assert capsys.readouterr().err == told


def test_a_directory_that_was_deleted_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["publish", "."]) == 2
    told = "error: cannot find .: the current directory no longer exists; change into one that does\n"
    assert capsys.readouterr().err == told


def test_a_servables_traceback_stands_below_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ServableError("it broke", remote_traceback="Traceback …\nValueError: there\n"))
    assert main(["status"]) == 1
    assert capsys.readouterr().err == "error: it broke\nTraceback …\nValueError: there\n"


def test_another_errors_traceback_is_shown_with_debug_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, InvalidInput("it broke", remote_traceback="far away\n"))
    assert main(["status"]) == 1
    assert capsys.readouterr().err == "error: it broke\n"
    assert main(["--debug", "status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: it broke\nTraceback (most recent call last):")
    assert said.count("far away") == 1


def test_a_message_of_several_lines_becomes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, HpcserveError("it\n  broke"))
    assert main(["status"]) == 1
    assert capsys.readouterr().err == "error: it broke\n"


def test_a_bug_is_one_line_and_70(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, ZeroDivisionError("by zero"))
    assert main(["status"]) == 70
    told = "error: ZeroDivisionError: by zero; this is a bug; run again with hpcserve --debug\n"
    assert capsys.readouterr().err == told
    assert main(["--debug", "status"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_silent_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert main(["status"]) == 130
    assert capsys.readouterr().err == ""


CTRL_C = """
import signal, sys

class Finder:
    def find_spec(name, path, target=None):
        if name == sys.argv[1]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder)
from hpcserve.cli.main import main

sys.argv[1:] = [sys.argv[1], "--help"]
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["typing", "hpcserve.cli.streams", "hpcserve.errors", "hpcserve.cli.app", "typer"])
def test_ctrl_c_while_something_is_imported_is_silent_and_130(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", CTRL_C, module], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_reader_that_goes_away_is_silent_and_141() -> None:
    process = subprocess.Popen([*HPCSERVE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (141, b"")


def on_a_terminal(*argv: str, env: dict[str, str]) -> bytes:
    """What the program writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env={**os.environ, **env})
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:
        pass  # how a terminal says that nobody holds its other end
    process.wait(60)
    os.close(ours)
    return said


def test_the_line_is_red_on_a_terminal_and_not_cut() -> None:
    said = on_a_terminal(*HPCSERVE, "status", env={"TERM": "xterm", "COLUMNS": "40"})
    assert said.startswith(b"\x1b[31merror: no daemon runs here")
    assert said.count(b"\n") == 1


def test_no_color_is_heard() -> None:
    said = on_a_terminal(*HPCSERVE, "status", env={"TERM": "xterm", "NO_COLOR": "1"})
    assert said.startswith(b"error: no daemon runs here")
    assert b"\x1b[31m" not in said


def test_no_colour_where_there_is_no_terminal() -> None:
    done = subprocess.run([*HPCSERVE, "status"], capture_output=True, check=False, timeout=60)
    assert b"\x1b" not in done.stderr


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"hpcserve \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for word in ["up", "down", "status", "publish", "deploy", "undeploy", "run", "logs", "service", "demo"]:
        assert re.search(rf"^  {word} ", said, re.MULTILINE)
    assert re.search(r"^ +6  timed out, or overloaded$", said, re.MULTILINE)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_what_the_program_says_of_itself_imports_nothing_heavy(option: str) -> None:
    heavy = ("rich", "numpy", "zmq", "msgspec", "asyncio", "sqlalchemy", "torch", "h5py", "sklearn")
    program = (
        f"import json, sys; from hpcserve.cli.main import main; main([{option!r}]); "
        f"print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_every_commands_help_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ALONE:
        assert main([word, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: hpcserve {word}")


def test_the_reference_describes_every_option(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (root / "docs" / "reference" / "cli.md").read_text()
    for words in (*ALONE, "service add", "site check"):
        main([*words.split(), "--help"])
        for option in set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}:
            section = text.split(f"## `hpcserve {words.split()[0]}", 1)[1].split("\n## ", 1)[0]
            assert f"`{option}" in section, f"{words}: {option}"
