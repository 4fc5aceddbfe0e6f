"""What people see: errors, tables, progress. Colour only on a terminal, and never against ``NO_COLOR``.

rich decides on colours; it is imported only when something is to be drawn.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from hpcserve.errors import DeploymentFailed, HpcserveError, ManifestError, ServableError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_COLUMNS = 200
"""How wide a table may be where there is no terminal whose width counts."""
OF_THE_SERVABLE = (ServableError, DeploymentFailed, ManifestError)
"""Errors whose traceback leads to the servable's own code."""
LINE_CHARACTERS = 200
"""So much of an error stands in its line, if its traceback says the rest."""


def console(*, stderr: bool = False) -> Console:
    """Where to draw."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, markup=False, width=None if stream.isatty() else PIPE_COLUMNS)


def table(*columns: str, title: str = "") -> Table:
    """An empty table; what does not fit is folded, never cut off."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # Text, so that a bracket in a name is no markup.
    made = Table(
        box=SIMPLE_HEAD, pad_edge=False, title=Text(title, style="bold") if title else None, title_justify="left"
    )
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def complain(message: str) -> None:
    """``error: …`` on standard error, one line, red where there is colour."""
    _write(f"error: {' '.join(message.split())}", style="red")


def show_error(error: HpcserveError, *, debug: bool) -> None:
    """The error's line; below it the traceback of the servable, or with ``debug`` also where it arrived here."""
    shown = error.remote_traceback if debug or isinstance(error, OF_THE_SERVABLE) else None
    complain(_without(error.message, shown or "") or type(error).__name__)
    if debug:
        show_traceback(error)  # the remote one is part of it
    elif shown:
        _write(shown.rstrip(), style="dim")


def _without(message: str, traceback: str) -> str:
    """The message, but for the end that its traceback says again."""
    line, _, more = message.partition("\n")
    if not all(each.removesuffix(" …") in traceback for each in more.splitlines()):
        return message
    if len(line) > LINE_CHARACTERS and line[LINE_CHARACTERS:].removesuffix(" …") in traceback:
        return f"{line[:LINE_CHARACTERS]} …"
    return line


def show_traceback(error: BaseException) -> None:
    """Where in this process it happened."""
    _write("".join(traceback.format_exception(error)).rstrip(), style="dim")


def note(message: str) -> None:
    """A line for people, on standard error: standard output holds what was asked for."""
    typer.echo(message, err=True)


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
