"""What a command imports: only what it needs, since that is most of the time that a short one takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = frozenset(
    ["asyncio", "h5py", "ml_dtypes", "msgspec", "numpy", "pydantic", "rich", "sklearn", "sqlalchemy", "ssl", "zmq"]
)
OURS = frozenset({"hpcserve.client", "hpcserve.daemon", "hpcserve.cli.demo_run"})
PROGRAM = """
import sys
from hpcserve.cli.main import main

code = main(sys.argv[1:])
print("imported:", *sys.modules, file=sys.stderr)
sys.exit(code)
"""
COMMANDS = (
    "up",
    "down",
    "status",
    "publish",
    "deploy",
    "undeploy",
    "share",
    "run",
    "logs",
    "results",
    "transfers",
    "login",
    "logout",
    "whoami",
    "doctor",
    "connect",
    "container",
    "service",
    "site",
    "demo",
)


def heavy_imports(home: Path, *arguments: str) -> frozenset[str]:
    """What of the above ``hpcserve ARGUMENTS`` imports where no daemon runs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "HPCSERVE_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said, found, imported = done.stderr.rpartition("imported:")
    assert found, said
    assert "this is a bug" not in said
    return (HEAVY | OURS) & set(imported.split())


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("--version",), ("frob",), *((each, "--help") for each in COMMANDS)]
)
def test_what_is_said_of_the_program_itself_needs_no_heavy_import(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert heavy_imports(tmp_path, *arguments) == set()


def test_help_imports_little_more_than_an_empty_interpreter() -> None:
    """It takes 0.06 s on a quiet machine, most of it for these."""
    count = "import sys; from hpcserve.cli.main import main; main(['--help']); print(len(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stderr) < 250


def test_the_services_are_read_without_a_client(tmp_path: Path) -> None:
    assert heavy_imports(tmp_path, "service", "use", "nothing") == {"hpcserve.client", "msgspec"}
    assert heavy_imports(tmp_path, "service", "list") == {"hpcserve.client", "msgspec", "rich"}


def test_the_far_side_of_ssh_has_no_socket_library(tmp_path: Path) -> None:
    """There is one for each client, on a login node."""
    assert heavy_imports(tmp_path, "connect") == {"hpcserve.client", "msgspec"}


def test_a_command_that_calls_the_daemon_needs_no_asyncio_and_draws_only_what_it_was_told(tmp_path: Path) -> None:
    assert heavy_imports(tmp_path, "status") <= {"hpcserve.client", "ml_dtypes", "msgspec", "numpy", "zmq"}
