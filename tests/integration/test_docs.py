"""The programs and commands of the documentation are run, in order, each page with a home and a daemon of its own.

tests/integration/pages.py says which. The blocks of docs/how-to/write-a-servable.md are run by
tests/unit/servable/test_servable_docs.py, docs/how-to/get-large-results.md by tests/acceptance/test_transfers.py, and
what a page says of a cluster by tests/facility/test_tutorials.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.pages import COMMAND_S, Page, matches

PAGES = (
    "README.md",
    "docs/how-to/call-from-a-simulation.md",
    "docs/how-to/call-from-python.md",
    "docs/how-to/run-as-a-daemon.md",
    "docs/how-to/share-a-servable.md",
    "docs/how-to/try-globus-on-a-laptop.md",
    "docs/reference/python.md",
    "docs/tutorials/a-model-too-large-for-one-gpu.md",
    "docs/tutorials/ten-minutes.md",
)


def test_a_page_may_leave_out_what_differs_each_time() -> None:
    assert matches("a\n…\nb … c\n", "a\nx\ny\nb 1 c \n")
    assert matches("a\n…\n", "a\n")
    assert not matches("a\n", "a\nb\n")
    assert not matches("b … c\n", "b\nc\n")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user with an empty home, who finds the program on PATH; no daemon of theirs is left afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.delenv("HPCSERVE_HOME")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(home)
    yield home
    for record in home.glob(".hpcserve*/sites/*/shared/service.json"):
        supervisor = int(json.loads(record.read_bytes())["pid"])
        os.kill(supervisor, signal.SIGTERM)
        until = time.monotonic() + COMMAND_S
        while record.exists():
            assert time.monotonic() < until, f"the daemon with pid {supervisor} does not go down"
            time.sleep(0.05)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.usefixtures("user")
def test_the_page_does_what_it_says(name: str) -> None:
    assert Page(name).run(), f"{name} has no block to run"


def hpcserve(*arguments: str, home: Path) -> str:
    """What the command line prints for the user who has this directory, whether it succeeds or not."""
    environment = {**os.environ, "HPCSERVE_HOME": str(home)}
    done = subprocess.run(
        ["hpcserve", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    return done.stdout


def until_it_says(part: str, *arguments: str, home: Path) -> None:
    until = time.monotonic() + 10
    while part not in (said := hpcserve(*arguments, home=home)):
        assert time.monotonic() < until, said


def test_another_user_is_let_in_and_put_out_as_the_guide_says(user: Path) -> None:
    """docs/how-to/run-as-a-daemon.md, by two users with a directory each; and an interface's name as the host."""
    owner, other = user / ".hpcserve", user / ".hpcserve-other"
    site = owner / "sites" / "lab.toml"
    site.parent.mkdir(mode=0o700, parents=True)
    owner.chmod(0o700)
    site.write_text('[network]\nhost = "lo"\n', encoding="utf-8")
    assert "serves site lab" in hpcserve("up", "--detach", "--site", "lab", home=owner)
    record = str(shutil.copy(owner / "sites/lab/shared/service.json", user))
    assert "tcp://127.0.0.1:" in Path(record).read_text(encoding="utf-8")
    assert "site lab on" in hpcserve("service", "add", "lab", record, home=other)
    assert "lab is in use" in hpcserve("service", "use", "lab", home=other)

    refused = hpcserve("status", home=other)
    line = re.search(r"authorized_keys in the service's state directory: YOUR-NAME (\S{40})$", refused.strip())
    assert line is not None, refused
    keys = owner / "sites/lab/state/authorized_keys"
    before = keys.read_text(encoding="utf-8")
    keys.write_text(f"{before}grace {line[1]}\n", encoding="utf-8")
    until_it_says("service lab, site lab", "status", home=other)

    keys.write_text(before, encoding="utf-8")
    until_it_says("does not know this key", "status", home=other)
