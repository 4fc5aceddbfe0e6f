"""What was said before the command's name, and the client that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from hpcserve.client import Client


@dataclass
class Options:
    """``hpcserve --service NAME --debug COMMAND``."""

    service: str | None = None
    debug: bool = False


def options(ctx: typer.Context) -> Options:
    """The options of this run."""
    found = ctx.find_object(Options)
    assert found is not None, "main() puts them there"
    return found


def open_client(ctx: typer.Context) -> Client:
    """A client of the service that this run is about.

    Raises:
        HpcserveError: As :class:`hpcserve.client.Client`.
    """
    from hpcserve.client import Client

    return Client(options(ctx).service)
