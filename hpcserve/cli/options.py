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
    from hpcserve.cli.asking import terminal
    from hpcserve.client import Client
    from hpcserve.client.services import find_service
    from hpcserve.errors import AuthenticationError, LoginRequired, ServiceUnavailable

    try:
        return Client(options(ctx).service, asks=terminal())
    except ServiceUnavailable as error:
        pid = _without_record(options(ctx).service)
        if pid is not None:
            record = find_service(options(ctx).service).record
            raise ServiceUnavailable(
                f"the daemon (pid {pid}) has no service record at {record}: it is not ready yet, or the directory was "
                "moved or emptied: put it back, or take the daemon down with: hpcserve down"
            ) from error
        sites = _sites_with_daemons(options(ctx).service)
        if not sites:
            raise
        raise ServiceUnavailable(
            f"{error}; or call the one of site {' or '.join(sites)}: export HPCSERVE_SITE={sites[0]}"
        ) from error
    except LoginRequired:
        raise
    except AuthenticationError as error:
        keys = _missing_keys(options(ctx).service)
        if keys is None:
            raise
        raise AuthenticationError(
            f"{error}; here, that is {keys}, which does not exist: if its directory was moved while the daemon runs, "
            "take it down with: hpcserve down"
        ) from error


def _without_record(service: str | None) -> int | None:
    """The daemon of the site itself, if one runs here without a record that says where."""
    from hpcserve import config
    from hpcserve.client.services import find_service
    from hpcserve.errors import ConfigError

    record = find_service(service).record
    if record is None or record.is_file():
        return None
    try:
        site = config.load_site(None)
    except ConfigError:  # its file is not complete yet: nothing of it can run
        return None
    # The daemon removes the directory of its sockets at its end.
    if record.parent != site.shared_dir or not config.runtime_dir(site.state_dir).exists():
        return None
    from hpcserve.cli.daemon_pids import noted_pid

    return noted_pid(site.state_dir)


def _sites_with_daemons(service: str | None) -> list[str]:
    """This user's sites that have a service record, if the service asked for has none: perhaps one was meant."""
    from hpcserve import config
    from hpcserve.client.services import find_service, of_site
    from hpcserve.errors import ConfigError

    def has_record(site: str) -> bool:
        try:
            record = of_site(site).record
            return record is not None and record.is_file()
        except (ConfigError, OSError):  # its file is not complete yet
            return False

    record = find_service(service).record
    return [] if record is None or record.is_file() else list(filter(has_record, config.site_names()))


def _missing_keys(service: str | None) -> Path | None:
    """The authorized keys of the site's own service, if the daemon has lost them."""
    from hpcserve import config
    from hpcserve.client.services import find_service
    from hpcserve.daemon.launch import AUTHORIZED_KEYS
    from hpcserve.errors import ConfigError

    record = find_service(service).record
    if record is None:
        return None
    try:
        site = config.load_site(None)
    except ConfigError:  # so no service of its own has refused us
        return None
    keys = site.state_dir / AUTHORIZED_KEYS
    own = record.parent == site.shared_dir
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


def ending_seconds(text: str | float) -> float:
    """A time as it was written; it has an end.

    Raises:
        typer.BadParameter: It is no number, endless, or not greater than 0.
    """
    return _ending(text, "seconds")


def milliseconds(text: str | float) -> float:
    """A time as it was written.

    Raises:
        typer.BadParameter: It is no number, endless, or not greater than 0.
    """
    return _ending(text, "milliseconds")


def _ending(text: str | float, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0 < number < float("inf"):
        return number
    raise typer.BadParameter(f"{text!r}: expected a number of {unit} greater than 0")


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
