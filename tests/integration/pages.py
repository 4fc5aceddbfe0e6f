"""Runs the programs and commands of a page of the documentation, in order.

What is run: fenced blocks of ``python`` and of ``console`` (lines that begin with ``$``). A ``text`` block that
follows a Python block, and the lines below a command, are what must be printed; ``…`` stands for anything in its
line, and for any lines where it is alone. ``<!-- not run: REASON -->`` before a block keeps it out,
``<!-- file: PATH -->`` makes a file of it, ``<!-- only: PLACE -->`` has it run there alone. What ``$ export`` sets
holds to the end of the page.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COMMAND_S = 60.0
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (not run|file|only): (.+?) -->\s*\Z")
HOME = "~/.hpcserve/"

Shell = Callable[[str, Mapping[str, str]], "subprocess.CompletedProcess[str]"]
"""Runs a command with variables on top of this process's; all that it prints is its ``stdout``."""


class Block(NamedTuple):
    """A fenced block; ``mark`` and ``value`` are those of the comment before it."""

    line: int
    language: str
    text: str
    mark: str
    value: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks."""
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


def here(command: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The shell of this machine."""
    return subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


def anywhere(block: Block) -> bool:
    """Whether it is not for one place alone."""
    return block.mark != "only"


class Page:
    """One page being run, in the current directory.

    Args:
        name: Its path in the project.
        shell: Runs its commands.
        chosen: Which of its blocks are looked at.
        read_as: What stands in the page, and what it is here.
    """

    def __init__(
        self,
        name: str,
        shell: Shell = here,
        chosen: Callable[[Block], bool] = anywhere,
        read_as: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._read_as = read_as or {}
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self._shell = shell
        self._chosen = chosen
        self._variables: dict[str, str] = {}

    def run(self) -> int:
        """Runs every block; returns how many there were."""
        ran, printed = 0, None
        text = (ROOT / self.name).read_text(encoding="utf-8")
        for told, meant in self._read_as.items():
            assert told in text, f"{self.name} has no {told}"
            text = text.replace(told, meant)
        for block in filter(self._chosen, blocks(text)):
            if block.mark == "not run":
                printed = None
            elif block.mark == "file":
                self._file(block)
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

    def _file(self, block: Block) -> None:
        path = Path(block.value).expanduser()
        if block.value.startswith(HOME) and "HPCSERVE_HOME" in os.environ:
            path = Path(os.environ["HPCSERVE_HOME"], block.value.removeprefix(HOME))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

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
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                self._variables[name] = value
                continue
            done = self._shell(command, self._variables)
            where = f"{self.name}:{block.line}: {command}"
            assert done.returncode == 0, f"{where}: ended with {done.returncode} and printed:\n{done.stdout}"
            if expected.strip():
                assert matches(expected, done.stdout), f"{where}: printed:\n{done.stdout}"
