"""Somebody at a terminal who logs in with a browser: a pseudo-terminal, and the stand-in's pages."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from hpcserve.testing.globus.browser import log_in
from tests.acceptance.newcomer import HPCSERVE, User

PATIENCE_S = 60.0
ADDRESS = re.compile(r"(https://localhost:\S+)\s.*Paste the code: ", re.DOTALL)


class Typist:
    """``hpcserve ARGUMENTS`` with the person's terminal as its input and standard error; its output is a pipe's."""

    def __init__(self, user: User, ca: str, *arguments: str | Path) -> None:
        self._ca = ca
        self._screen, theirs = pty.openpty()
        self.seen = ""
        self.patience_s = PATIENCE_S
        self._read_to = 0
        self.process = subprocess.Popen(
            [*HPCSERVE, *map(str, arguments)],
            env=user.environment,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            process_group=0,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self._screen)

    def address(self) -> str:
        """What to open, when the prompt stands there."""
        until = time.monotonic() + self.patience_s
        while (found := ADDRESS.search(self.seen, self._read_to)) is None:
            assert self._look(until), f"no prompt: {self.seen}"
        self._read_to = found.end()
        return found[1]

    def logs_in(self) -> Self:
        """Opens the address, and pastes the code."""
        return self.types(log_in(self.address(), self._ca))

    def says(self, text: str) -> Self:
        """Waits until that stands there."""
        until = time.monotonic() + self.patience_s
        while text not in self.seen:
            assert self._look(until), f"not said: {self.seen}"
        return self

    def logs_in_until_asked(self) -> Self:
        """Logs in as often as that is wanted before a question stands there that is answered with yes or no."""
        until = time.monotonic() + self.patience_s
        while self.seen.find("[y/N] ", self._read_to) < 0:
            if ADDRESS.search(self.seen, self._read_to):
                self.logs_in()
            else:
                assert self._look(until), f"nothing asked: {self.seen}"
        return self

    def agrees(self, text: str = "y") -> Self:
        """Says yes, or something else, to the question that stands there."""
        until = time.monotonic() + self.patience_s
        while (at := self.seen.find("[y/N] ", self._read_to)) < 0:
            assert self._look(until), f"nothing asked: {self.seen}"
        self._read_to = at + 1
        return self.types(text)

    def types(self, text: str) -> Self:
        os.write(self._screen, f"{text}\n".encode())
        return self

    def interrupts(self) -> Self:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self

    def ends(self, code: int = 0) -> str:
        """Its output, when it has ended with this exit code."""
        until = time.monotonic() + self.patience_s
        while self._look(until):
            pass
        assert time.monotonic() < until, f"it does not end: {self.seen}"
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == code, f"{self.process.returncode}: {output}{self.seen}"
        return output

    def _look(self, until: float) -> bool:
        """Takes in what is on the screen; False: nothing comes any more."""
        if not select.select([self._screen], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        more = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            more = os.read(self._screen, 65536)
        self.seen += more.decode().replace("\r\n", "\n")
        return bool(more)
