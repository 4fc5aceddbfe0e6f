"""What the options of a job script may be written with, whichever scheduler reads them. Pure."""

from __future__ import annotations

import shlex

from hpcserve.errors import ConfigError


def one_line(value: str, option: str) -> str:
    """The value of an option as a shell would read it, and so do schedulers.

    Raises:
        ConfigError: It would be more than the value of one option.
    """
    if not value.isprintable():
        raise ConfigError(f"{option} of the job script: expected printable text on one line, got {value!r}")
    return shlex.quote(value)


def directive(line: str, example: str) -> str:
    """A line of ``pilots.directives``.

    Args:
        line: As the site has it.
        example: A right one.

    Raises:
        ConfigError: It is not one option.
    """
    if not line.startswith("-") or not line.isprintable():
        raise ConfigError(f"pilots.directives: expected one option on one line, such as {example!r}, got {line!r}")
    return line
