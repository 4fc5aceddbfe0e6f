"""Asking the person at the terminal for a login's code, or a yes. All on standard error: the output is for results."""

from __future__ import annotations

import os
import select
import sys
import threading

from hpcserve.core.spelling import printable, printable_lines
from hpcserve.errors import AuthenticationError, Cancelled

LOOK_S = 0.2
MOST_BYTES = 4096


def prompt(address: str, why: str, scope: str) -> str:
    """What a person is shown who is to log in. Nothing in it that a service says steers the terminal."""
    right = f"It gives this service the right to {printable(scope)}. Look whether the page says so."
    if not scope:
        right = "It gives this command the right to transfer files for you, and the service none."
    asked = "Open this address in a browser, on any machine, and log in there:"
    return f"{printable_lines(why)}\n\n{asked}\n\n{address}\n\n{right}\nPaste the code: "


class Terminal:
    """The person at the terminal, as :class:`hpcserve.client.login.Asks`. Whoever waits can be interrupted."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def code(self, address: str, why: str, scope: str) -> str:
        """See :meth:`hpcserve.client.login.Asks.code`.

        Raises:
            AuthenticationError: The person has given none.
            Cancelled: Nobody wants it any more.
        """
        sys.stderr.write(prompt(address, why, scope))
        sys.stderr.flush()
        code = self._line()
        if not code or not code.isprintable():
            raise AuthenticationError("no code was pasted, so nobody is logged in; again: hpcserve login")
        sys.stderr.write("\n")
        return code

    def agrees(self, question: str) -> bool:
        """Whether the person says yes; anything else is a no.

        Raises:
            Cancelled: Nobody wants to know any more.
        """
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return self._line().lower() in ("y", "yes")

    def _line(self) -> str:
        while not self._over.is_set():
            if select.select([sys.stdin], [], [], LOOK_S)[0]:
                return os.read(sys.stdin.fileno(), MOST_BYTES).decode("utf-8", "replace").strip()
        raise Cancelled("nobody waits for an answer any more")

    def interrupt(self) -> None:
        """See :meth:`hpcserve.client.login.Asks.interrupt`."""
        self._over.set()


def terminal() -> Terminal | None:
    """The person, if there is one: what comes from a pipe is data, and nobody reads what goes to a file."""
    return Terminal() if sys.stdin.isatty() and sys.stderr.isatty() else None
