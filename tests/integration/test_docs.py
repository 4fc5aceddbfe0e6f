"""The programs and commands of the documentation are run, in order, each page with a home and a daemon of its own.

What is run: fenced blocks of ``python`` and of ``console`` (lines that begin with ``$``). A ``text`` block that
follows a Python block, and the lines below a command, are what must be printed; ``…`` stands for anything in its
line, and for any lines where it is alone. ``<!-- not run: REASON -->`` before a block keeps it out,
``<!-- file: PATH -->`` makes a file of it. The blocks of docs/how-to/write-a-servable.md are run by
tests/unit/servable/test_servable_docs.py.
"""

from __future__ import annotations

import contextlib
import io
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
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/how-to/call-from-a-simulation.md",
    "docs/how-to/call-from-python.md",
    "docs/how-to/run-as-a-daemon.md",
    "docs/reference/python.md",
    "docs/tutorials/ten-minutes.md",
)
COMMAND_S = 60.0
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (not run|file): (.+?) -->\s*\Z")


class Block(NamedTuple):
    """A fenced block; ``mark`` and ``value`` are those of the comment before it."""

    line: int
    language: str
    text: str
    mark: str
    value: str


def blocks(page: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(page):
        mark = MARK.search(page[: match.start()])
        line = page[: match.start(2)].count("\n") + 1
        found.append(Block(line, match[1], match[2], mark[1] if mark else "", mark[2] if mark else ""))
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether the text is as a page shows it."""
    pattern = ""
    for line in expected.rstrip("\n").split("\n"):
        if line.strip() == "…":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += "[^\n]*".join(map(re.escape, line.rstrip().split("…"))) + r"[ ]*\n"
    return re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in printed.splitlines())) is not None


def test_a_page_may_leave_out_what_differs_each_time() -> None:
    assert matches("a\n…\nb … c\n", "a\nx\ny\nb 1 c \n")
    assert matches("a\n…\n", "a\n")
    assert not matches("a\n", "a\nb\n")
    assert not matches("b … c\n", "b\nc\n")


class Page:
    """One page being run, in the current directory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def run(self) -> int:
        """Runs every block; returns how many there were."""
        ran, printed = 0, None
        for block in blocks((ROOT / self.name).read_text(encoding="utf-8")):
            if block.mark == "not run":
                printed = None
            elif block.mark == "file":
                path = Path(block.value).expanduser()
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                printed = self._python(block)
                ran += 1
            elif block.language == "console":
                self._console(block)
                printed = None
                ran += 1
            elif block.language == "text" and printed is not None:
                assert matches(block.text, printed), f"{self.name}:{block.line}: this was printed:\n{printed}"
                printed = None
        return ran

    def _python(self, block: Block) -> str:
        # As many empty lines in front as make a traceback name the page's own line.
        source = "\n" * (block.line - 1) + block.text
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(source, str(ROOT / self.name), "exec"), self.namespace)
        return output.getvalue()

    def _console(self, block: Block) -> None:
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            lines = part.split("\n")
            taken = 1
            while lines[taken - 1].endswith("\\"):
                taken += 1
            command, expected = "\n".join(lines[:taken]), "\n".join(lines[taken:])
            done = subprocess.run(
                ["bash", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_S,
                check=False,
            )
            where = f"{self.name}:{block.line}: {command}"
            assert done.returncode == 0, f"{where}: ended with {done.returncode} and printed:\n{done.stdout}"
            if expected.strip():
                assert matches(expected, done.stdout), f"{where}: printed:\n{done.stdout}"


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
