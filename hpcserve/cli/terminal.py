"""What people see: errors, tables, progress. Colour only on a terminal, and never against ``NO_COLOR``.

rich decides on colours; it is imported only when something is to be drawn.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from hpcserve.errors import DeploymentFailed, HpcserveError, ManifestError, ServableError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

PIPE_COLUMNS = 200
"""How wide a table may be where there is no terminal whose width counts."""
OF_THE_SERVABLE = (ServableError, DeploymentFailed, ManifestError)
"""Errors whose traceback leads to the servable's own code."""
LINE_CHARACTERS = 200
"""So much of what an exception says stands in the error's line, if the traceback below says the rest."""


def console(*, stderr: bool = False) -> Console:
    """Where to draw."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, markup=False, width=None if stream.isatty() else PIPE_COLUMNS)


def table(*columns: str, folded: Collection[str] = (), numbers: Collection[str] = ()) -> Table:
    """An empty table; what does not fit is folded, never cut off.

    Args:
        columns: Their names.
        folded: Those that give way where the table is too wide; default: all.
        numbers: Those that stand on the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(
            column,
            overflow="fold",
            no_wrap=bool(folded) and column not in folded,
            justify="right" if column in numbers else "left",
        )
    return made


def show(*drawn: RenderableType) -> None:
    """Draws on standard output, one below the other. For a program that reads it, no line ends with blanks."""
    from rich.console import Group

    screen = console()
    if screen.is_terminal:
        screen.print(Group(*drawn))
        return
    with screen.capture() as captured:
        screen.print(Group(*drawn))
    typer.echo("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()), nl=False)


def complain(message: str) -> None:
    """``error: …`` on standard error, one line, red where there is colour. It may be a service's: see :func:`note`."""
    from hpcserve.core.spelling import printable

    _write(f"error: {printable(' '.join(message.split()))}", style="red")


def show_error(error: HpcserveError, *, debug: bool) -> None:
    """The error's line; below it the traceback of the servable, or with ``debug`` also where it arrived here."""
    shown = error.remote_traceback if debug or isinstance(error, OF_THE_SERVABLE) else None
    message = _without(error.message, shown) if shown else error.message
    complain(message or type(error).__name__)
    if debug:
        show_traceback(error)  # the remote one is part of it
    elif shown:
        _write(shown.rstrip(), style="dim")


def _without(message: str, traceback: str) -> str:
    """The message, with a part of what its traceback ends with, and so says again."""
    from hpcserve.servable.tracebacks import MAX_MESSAGE_CHARACTERS

    lines = traceback.rstrip().splitlines()
    for number, line in enumerate(lines):
        said = "\n".join(lines[number:])
        for repeated in (said, f"{said[:MAX_MESSAGE_CHARACTERS]} …"):
            if repeated in message:
                short = line[:LINE_CHARACTERS]
                return message.replace(repeated, short if short == said else f"{short} …")
    return message


def show_traceback(error: BaseException) -> None:
    """Where in this process it happened."""
    _write("".join(traceback.format_exception(error)).rstrip(), style="dim")


def note(message: str) -> None:
    """A line for people, on standard error: standard output holds what was asked for.

    It may tell what a service, or Globus, has said: nothing in it steers the terminal.
    """
    from hpcserve.core.spelling import printable_lines

    typer.echo(printable_lines(message), err=True)


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """Shows that something takes its time, where there is a terminal to show it on."""
    if not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status(message):
        yield


def _write(text: str, *, style: str) -> None:
    if not sys.stderr.isatty():
        typer.echo(text, err=True)
        return
    from rich.text import Text

    console(stderr=True).print(Text(text), style=style, soft_wrap=True)
