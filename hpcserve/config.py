"""Where settings come from: command line, environment, site file, default, in this order.

The only module that reads the environment. A site file is TOML and becomes one frozen :class:`Site`;
unknown fields are refused, and an error names the file, the field and what was expected.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import pwd
import re
import threading
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hpcserve.errors import ConfigError

Seconds = Annotated[float, msgspec.Meta(gt=0)]
SizeBytes = Annotated[int, msgspec.Meta(gt=0)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]

MIB = 1 << 20
RETRY_S = 2.0
"""An agent or a replica that has lost the daemon pauses so long at most before it looks for it again."""
_UNKNOWN = re.compile("object contains unknown field `(.*)`", re.DOTALL)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the tables of a site file."""


def _too_short(field: str, least_s: float, value_s: float, consequence: str) -> str:
    why = f"{consequence} before they could come back from a restart of the daemon"
    return f"{field}: expected ≥ {least_s:g}, got {value_s:g}: {why}"


class Network(Section, frozen=True):
    """``[network]``: where the daemon listens. Port 0 lets the system choose.

    With ``unix_sockets`` the owner's peers on the daemon's own host need no TCP for their data.
    """

    host: str = "127.0.0.1"
    admission_port: Port = 0
    front_port: Port = 0
    back_port: Port = 0
    unix_sockets: bool = True

    def __post_init__(self) -> None:
        # The address stands in the service record, for others to connect to.
        if self.host in ("0.0.0.0", "::", "*"):  # noqa: S104 (refused)
            raise ValueError(f"host: expected the address or name of one interface, got {self.host!r}, which is all")


class Scheduler(Section, frozen=True):
    """``[scheduler]``: which batch scheduler, and how often it is asked."""

    kind: str = "local"
    poll_s: Seconds = 1.0


class Pilots(Section, frozen=True):
    """``[pilots]``: the pilot jobs. ``slots`` is the number of replicas that one pilot holds.

    ``keep_ended``: of so many pilots and replicas that have ended, the last ones, something is kept.
    """

    walltime_s: Seconds = 24 * 3600.0
    slots: Annotated[int, msgspec.Meta(ge=1)] = 16
    max_pilots: Annotated[int, msgspec.Meta(ge=1)] = 4
    idle_s: Seconds = 300.0
    orphan_s: Seconds = 600.0
    launcher: str = "process"
    setup_timeout_s: Seconds = 300.0
    stop_grace_s: Seconds = 10.0
    log_bytes: SizeBytes = 8 * MIB
    keep_ended: Annotated[int, msgspec.Meta(ge=1)] = 100

    def __post_init__(self) -> None:
        if self.orphan_s < 2 * RETRY_S:  # one pause of the agent, and as long for the daemon to come back
            raise ValueError(_too_short("orphan_s", 2 * RETRY_S, self.orphan_s, "agents would end their pilots"))


class Budgets(Section, frozen=True):
    """``[budgets]``: bytes of unsettled requests and results that may be held at once."""

    broker_bytes: SizeBytes = 1024 * MIB
    session_bytes: SizeBytes = 256 * MIB
    outbox_bytes: SizeBytes = 256 * MIB
    max_queued: Annotated[int, msgspec.Meta(ge=1)] = 100_000


class Recovery(Section, frozen=True):
    """``[recovery]``: how long the daemon waits for peers that are away.

    ``recovery_grace_s``: for replicas after the broker restarted. ``session_linger_s``: for a client that
    went away without a word. ``hang_grace_s``: past a request's deadline before its replica is killed.
    """

    recovery_grace_s: Seconds = 10.0
    session_linger_s: Seconds = 60.0
    hang_grace_s: Seconds = 10.0
    lease_s: Seconds = 15.0

    def __post_init__(self) -> None:
        if self.recovery_grace_s < RETRY_S:
            consequence = "replicas would be given up"
            raise ValueError(_too_short("recovery_grace_s", RETRY_S, self.recovery_grace_s, consequence))


class Site(Section, frozen=True, kw_only=True):
    """One facility's configuration, whole."""

    name: str
    mode: Literal["personal"] = "personal"
    auth: Literal["keys"] = "keys"
    state_dir: Path
    shared_dir: Path
    network: Network = Network()
    scheduler: Scheduler = Scheduler()
    pilots: Pilots = Pilots()
    budgets: Budgets = Budgets()
    recovery: Recovery = Recovery()


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


def _content(site: str) -> tuple[str, str]:
    """The text of a site file and the name to call it by in errors. ``site`` is a name or a path."""
    if site.endswith(".toml") or "/" in site:
        path = expanded(site)
        try:
            return path.read_text(), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read site file {path}: {error}") from error
    own = home() / "sites" / f"{site}.toml"
    if own.is_file():
        return own.read_text(), str(own)
    shipped = files("hpcserve.site_configs").joinpath(f"{site}.toml")
    if not shipped.is_file():
        known = sorted(
            entry.name.removesuffix(".toml")
            for entry in files("hpcserve.site_configs").iterdir()
            if entry.name.endswith(".toml")
        )
        raise ConfigError(f"no site named {site!r}; known: {', '.join(known)}; or give the path of a .toml file")
    return shipped.read_text(), f"site_configs/{site}.toml"


def load_site(option: str | None = None) -> Site:
    """The site that the option, the environment or the default names.

    ``state_dir`` and ``shared_dir`` may use ``~``; without them they lie below :func:`home`.

    Raises:
        ConfigError: There is no such site, or its file is wrong.
    """
    text, source = _content(site_named(option))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error
    name = Path(source).stem
    table.setdefault("name", name)
    table.setdefault("state_dir", str(home() / "sites" / name / "state"))
    table.setdefault("shared_dir", str(home() / "sites" / name / "shared"))
    for key in ("state_dir", "shared_dir"):
        if isinstance(table[key], str):
            table[key] = str(expanded(table[key]))
    try:
        with _CONVERTING:
            return msgspec.convert(table, Site, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(source, error)) from error


_CONVERTING = threading.Lock()
"""msgspec learns a type when it first converts to it; two threads that make it learn the same one crash the process."""


def _path(kind: type, value: object) -> object:
    """A field that is a Path; msgspec has no type for it."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected a path, got {value!r}")


def _explain(source: str, error: msgspec.ValidationError) -> str:
    """``Expected … - at `$.pilots.walltime_s` `` as ``FILE: pilots.walltime_s: expected …``."""
    text, _, place = str(error).partition(" - at `$")
    field = place.rstrip("`").lstrip(".")
    told = text[:1].lower() + text[1:]
    unknown = _UNKNOWN.fullmatch(told)
    if unknown is not None:
        told = _unknown(unknown[1], field)
    return f"{source}: {field}: {told}" if field else f"{source}: {told}"


def _unknown(name: str, table: str) -> str:
    """What to say of a name in a table, "" being the whole file, that has no such field."""
    tables = {each.name: each.type for each in msgspec.structs.fields(Site)}
    known = [each.name for each in msgspec.structs.fields(tables[table] if table else Site)]
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown field {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")


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
