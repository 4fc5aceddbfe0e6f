"""What the environment and the user's home say. The only module that reads the environment."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from collections.abc import Iterable
from pathlib import Path

from hpcserve.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def home() -> Path:
    """The directory of the user's hpcserve files: ``$HPCSERVE_HOME``, else ``~/.hpcserve``.

    Raises:
        ConfigError: Nothing says where the user is at home.
    """
    return expanded(os.environ.get("HPCSERVE_HOME") or "~/.hpcserve")


def expanded(path: str) -> Path:
    """The path from the root; a leading ``~`` is ``$HOME``, or what the password database says if that is empty.

    Raises:
        ConfigError: Neither says where the user is at home.
    """
    if path.partition("/")[0] == "~" and not os.environ.get("HOME"):
        try:
            return Path(pwd.getpwuid(os.getuid()).pw_dir, path[2:]).absolute()
        except KeyError as error:
            raise ConfigError(
                f"cannot find {path}: HOME is not set, and uid {os.getuid()} has no home; set HPCSERVE_HOME"
            ) from error
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"cannot find {path}: no user of this machine has this name") from error
    except FileNotFoundError as error:
        raise ConfigError(
            f"cannot find {path}: the current directory no longer exists; change into one that does"
        ) from error


def cache_dir() -> Path:
    """What can be made again: ``$XDG_CACHE_HOME/hpcserve``, else ``~/.cache/hpcserve``.

    Raises:
        ConfigError: Nothing says where the user is at home.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hpcserve"


def site_named(option: str | None) -> str:
    """The site to use: the command line's ``option``, ``$HPCSERVE_SITE``, else ``local``."""
    return option or os.environ.get("HPCSERVE_SITE") or "local"


def service_named(option: str | None) -> str | None:
    """The service to call: the command line's ``option``, ``$HPCSERVE_SERVICE``, else None (the default one)."""
    return option or os.environ.get("HPCSERVE_SERVICE") or None


def filled_in(path: str, field: str) -> str:
    """The path with the values of the variables that it names, such as ``$SCRATCH`` or ``${SCRATCH}``."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            raise ConfigError(f"{field}: {path!r}: {name} is not set here; set it, or write the path in full")
        return os.environ[name]

    return _VARIABLE.sub(value, path)


def variables_in(paths: Iterable[str]) -> dict[str, str]:
    """The variables that these paths name, as far as they are set."""
    named = {found[1] or found[2] for path in paths for found in _VARIABLE.finditer(path)}
    return {name: os.environ[name] for name in sorted(named) if name in os.environ}


def runtime_dir(state_dir: Path) -> Path:
    """Where the daemon's ``ipc://`` sockets are: ``state_dir/run``, if a Unix socket's address may be that long.

    That is 107 bytes; a longer one becomes a short name below ``$XDG_RUNTIME_DIR`` or ``/tmp``.
    """
    direct = state_dir / "run"
    if len(os.fsencode(direct)) <= 80:
        return direct
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")  # noqa: S108 (made 0700, ownership checked)
    return base / f"hpcserve-{os.getuid()}-{digest}"


def stage_copies(stage_dir: Path) -> Path:
    """Where the copies of a user's images are on a node, below ``containers.stage_dir``."""
    return stage_dir / f"hpcserve-{os.geteuid()}"
