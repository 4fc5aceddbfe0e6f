"""What the options of a job script may be written with, whichever scheduler reads them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

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


def asked(line: str, flags: str) -> Iterator[tuple[str, str]]:
    """What options a line of ``pilots.directives`` has, and their values: ``J`` of ``-J1-2``, ``time`` of ``--time=5``.

    Args:
        line: As the site has it.
        flags: The letters of the options that have no value.

    Raises:
        ConfigError: It has a quotation mark that none ends.

    Source: getopt(3), as qsub and sbatch read them.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"pilots.directives: {error} in {line!r}; end it, or leave it away") from error
    while words and not words[0].startswith("#"):
        word = words.pop(0)
        if not word.startswith("-"):
            continue
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            letters = word.removeprefix("-")
            while letters[1:] and letters[0] in flags:
                yield letters[0], ""
                letters = letters[1:]
            name, given, value = letters[:1], letters[1:], letters[1:]
        if not given and name not in flags and words and not words[0].startswith(("-", "#")):
            value = words.pop(0)
        if name:
            yield name, value


def not_for_directives(option: str, why: str) -> ConfigError:
    """What to say of an option that hpcserve has to have as it gives it itself."""
    return ConfigError(f"pilots.directives: expected no {option}, {why}")
