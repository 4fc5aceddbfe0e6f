"""What was said before the command's name, and the client that follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from hpcserve.client import Client

LONGEST_DIGITS = 9
"""More than a billion of anything cannot be meant, and soon does not fit into a message."""
MOST_BYTES = 1 << 62


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
    from hpcserve.errors import AuthenticationError

    try:
        return Client(options(ctx).service)
    except AuthenticationError as error:
        keys = _missing_keys(options(ctx).service)
        if keys is None:
            raise
        raise AuthenticationError(
            f"{error}; here, that is {keys}, which does not exist: if its directory was moved while the daemon runs, "
            "take it down with: hpcserve down"
        ) from error


def _missing_keys(service: str | None) -> Path | None:
    """The authorized keys of the site's own service, if the daemon has lost them."""
    from hpcserve import config
    from hpcserve.client.services import find_service
    from hpcserve.daemon.launch import AUTHORIZED_KEYS

    site = config.load_site(None)
    keys = site.state_dir / AUTHORIZED_KEYS
    own = find_service(service).record.parent == site.shared_dir
    return keys if own and not keys.exists() else None


def seconds(text: str | float) -> float:
    """A time-out as it was written; ``inf`` is none.

    Raises:
        typer.BadParameter: It is no number, or not greater than 0.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number > 0:
        return number
    raise typer.BadParameter(f"{text!r}: expected a number of seconds greater than 0, or inf")


def milliseconds(text: str | float) -> float:
    """A time as it was written.

    Raises:
        typer.BadParameter: It is no number, endless, or not greater than 0.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0 < number < float("inf"):
        return number
    raise typer.BadParameter(f"{text!r}: expected a number of milliseconds greater than 0")


def size_bytes(text: str | int) -> int:
    """A number of bytes as it was written: ``1048576``, ``1MiB`` or ``1.5 GB``.

    Raises:
        typer.BadParameter: It is no such number, or none that can be meant.
    """
    found = re.fullmatch(r"(\d{1,19}(?:\.\d{1,9})?) ?(?:([kKMGT])(i?)B?|B)?", str(text))
    if found is not None:
        number, prefix, binary = found.groups()
        factor = (1024 if binary else 1000) ** (" KMGT".index(prefix.upper()) if prefix else 0)
        in_bytes = int(Decimal(number) * factor)
        if 0 < in_bytes <= MOST_BYTES:
            return in_bytes
    raise typer.BadParameter(f"{text!r}: expected a number of bytes greater than 0, such as 67108864, 64MiB or 1.5GB")


def count(text: str | int) -> int:
    """A number of things as it was written; 0 is none of them.

    Raises:
        typer.BadParameter: It is no whole number, or less than 0.
    """
    if str(text).isascii() and str(text).isdigit() and len(str(text)) <= LONGEST_DIGITS:
        return int(text)
    raise typer.BadParameter(f"{text!r}: expected a whole number from 0 to {10**LONGEST_DIGITS - 1}")
