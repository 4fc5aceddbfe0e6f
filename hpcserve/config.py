"""Where settings come from: command line, environment, site file, default, in this order.

The only module that reads the environment. A site file is TOML and becomes one frozen :class:`Site`;
unknown fields are refused, and an error names the file, the field and what was expected. A file with ``base`` stands
on another one: it says only what differs.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from hpcserve.errors import ConfigError
from hpcserve.sitefile import SiteFile, explained, merged, parsed, source_of

Seconds = Annotated[float, msgspec.Meta(gt=0)]
SizeBytes = Annotated[int, msgspec.Meta(gt=0)]
LAST_PORT = 65535
Port = Annotated[int, msgspec.Meta(ge=0, le=LAST_PORT)]

MIB = 1 << 20
RETRY_S = 2.0
"""An agent or a replica that has lost the daemon pauses so long at most before it looks for it again."""
PATHS = ("state_dir", "shared_dir")
_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_BIND = re.compile(r"/[^:]*(:/[^:]*(:(ro|rw))?)?")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the tables of a site file."""


def _too_short(field: str, least_s: float, value_s: float, consequence: str) -> str:
    why = f"{consequence} before they could come back from a restart of the daemon"
    return f"{field}: expected ≥ {least_s:g}, got {value_s:g}: {why}"


class Network(Section, frozen=True):
    """``[network]``: where the daemon listens. Port 0 is the first free one of ``port_range``, or of all ports.

    With ``unix_sockets`` the owner's peers on the daemon's own host need no TCP for their data.
    """

    host: str = "127.0.0.1"
    admission_port: Port = 0
    front_port: Port = 0
    back_port: Port = 0
    port_range: str = ""
    unix_sockets: bool = True

    def __post_init__(self) -> None:
        # The address stands in the service record, for others to connect to.
        if self.host in ("0.0.0.0", "::", "*"):  # noqa: S104 (refused)
            raise ValueError(f"host: expected the address or name of one interface, got {self.host!r}, which is all")
        any_ones = (self.admission_port, self.front_port, self.back_port).count(0)
        if self.port_range and len(self.any_port) < any_ones:
            raise ValueError(f"port_range: expected FIRST-LAST of at least {any_ones} ports, got {self.port_range!r}")

    @property
    def any_port(self) -> tuple[int, ...]:
        """What to try, in this order, for a socket whose port is 0; 0 is any free port."""
        if not self.port_range:
            return (0,)
        found = _RANGE.fullmatch(self.port_range)
        first, last = (int(found[1]), int(found[2])) if found else (0, 0)
        return tuple(range(first, last + 1)) if first > 0 and last <= LAST_PORT else ()

    def ports(self, port: int) -> tuple[int, ...]:
        """What to try, in this order, for a socket whose port in the site file is ``port``."""
        return (port,) if port else self.any_port


class Scheduler(Section, frozen=True):
    """``[scheduler]``: which batch scheduler, how it is spoken to, and how often it is asked.

    ``transport`` is for Slurm alone. Polls are ``poll_s`` apart, and up to ``poll_max_s`` while they bring no news.
    A command that has not answered after ``timeout_s`` is given up. ``submit_burst`` pilots are submitted at once, more
    of them so many a minute. Site ``local`` has neither limit.
    """

    kind: str = "local"
    transport: Literal["auto", "pyslurm", "commands"] = "auto"
    poll_s: Seconds = 1.0
    poll_max_s: Seconds = 120.0
    timeout_s: Seconds = 30.0
    submit_per_min: Annotated[float, msgspec.Meta(gt=0)] = 12.0
    submit_burst: Annotated[int, msgspec.Meta(ge=1)] = 8

    def __post_init__(self) -> None:
        if self.poll_max_s < self.poll_s:
            raise ValueError(f"poll_max_s: expected ≥ {self.poll_s:g}, which is poll_s, got {self.poll_max_s:g}")


class Pilots(Section, frozen=True):
    """``[pilots]``: the pilot jobs, and what each asks the batch scheduler for.

    ``slots`` is the number of replicas that one of its ``nodes`` holds. ``keep_ended``: of so many pilots and replicas
    that have ended, the last ones, something is kept. ``directives`` are further lines of the job script for the
    scheduler, ``setup`` shell commands that run before the agent; ``script`` is a template in place of the shipped one.
    The scheduler sends a signal ``warn_s`` before a job's end, where it can. ``queue_wait_s`` is the wait in the queue
    that is expected until one was measured.

    Pilots may be smaller and shorter than ``nodes`` and ``walltime_s``, where that starts sooner or is enough, down to
    ``min_nodes`` and ``min_walltime_s``; 0: they may not.
    """

    walltime_s: Seconds = 24 * 3600.0
    min_walltime_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    nodes: Annotated[int, msgspec.Meta(ge=1)] = 1
    min_nodes: Annotated[int, msgspec.Meta(ge=0)] = 0
    slots: Annotated[int, msgspec.Meta(ge=1)] = 16
    max_pilots: Annotated[int, msgspec.Meta(ge=1)] = 4
    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    gpus_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0
    cpus_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory_per_node_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    exclusive: bool = False
    requeue: bool = True
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    script: str = ""
    python: str = ""
    warn_s: Seconds = 120.0
    queue_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    idle_s: Seconds = 300.0
    orphan_s: Seconds = 600.0
    launcher: str = "process"
    setup_timeout_s: Seconds = 300.0
    stop_grace_s: Seconds = 10.0
    log_bytes: SizeBytes = 8 * MIB
    keep_ended: Annotated[int, msgspec.Meta(ge=1)] = 100

    def __post_init__(self) -> None:
        if self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes: expected ≤ nodes, {self.nodes}, got {self.min_nodes}")
        if self.min_walltime_s > self.walltime_s:
            raise ValueError(f"min_walltime_s: expected ≤ walltime_s, {self.walltime_s:g}, got {self.min_walltime_s:g}")
        if self.nodes > 1 and self.launcher == "process":
            raise ValueError("launcher: expected 'srun' for several nodes, got 'process', which starts on one only")
        if self.orphan_s < 2 * RETRY_S:  # one pause of the agent, and as long for the daemon to come back
            raise ValueError(_too_short("orphan_s", 2 * RETRY_S, self.orphan_s, "agents would end their pilots"))


class Queue(Section, frozen=True):
    """``[queues.NAME]``: what a partition or a QOS allows. 0: no limit, or none that is known.

    ``max_queued`` and ``max_running`` are numbers of one user's jobs. ``preempt``: jobs in it may be ended for others.
    """

    max_walltime_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    min_nodes: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_nodes: Annotated[int, msgspec.Meta(ge=0)] = 0
    gpus_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_queued: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_running: Annotated[int, msgspec.Meta(ge=0)] = 0
    preempt: bool = False


class Daemon(Section, frozen=True):
    """``[daemon]``: where the daemon runs, and what a job of its own asks the batch scheduler for.

    ``placement = "job"``: it runs in a job on one node. ``warn_s`` before the end of that job it submits the next one.
    ``python``, ``setup`` and ``script`` are those of ``[pilots]``.
    """

    placement: Literal["login", "job"] = "login"
    walltime_s: Seconds = 24 * 3600.0
    warn_s: Seconds = 120.0
    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    cpus_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory_per_node_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    directives: tuple[str, ...] = ()


class Containers(Section, frozen=True):
    """``[containers]``: how servables run that bring an image along.

    ``command`` is the runtime's, if it is not called as its name says. ``binds`` (``/SOURCE[:/TARGET[:ro|rw]]``) are
    seen in all containers; so are the variables that ``environment`` names. With ``signature_key`` only images
    run that are signed by it.
    """

    runtime: Literal["none", "apptainer", "podman-hpc", "shifter"] = "none"
    command: str = ""
    gpu: Literal["", "nv", "rocm"] = ""
    binds: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    signature_key: str = ""

    def __post_init__(self) -> None:
        for name in self.environment:
            if not _VARIABLE_NAME.fullmatch(name):
                raise ValueError(f"environment: expected names of variables, got {name!r}")
        for bind in self.binds:
            if not _BIND.fullmatch(bind):
                raise ValueError(f"binds: expected /SOURCE[:/TARGET[:ro|rw]], got {bind!r}")
        if self.signature_key and not self.signature_key.startswith("/"):
            raise ValueError(f"signature_key: expected the whole path of a public key, got {self.signature_key!r}")


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
    ``unreachable_s``: without a connection, before a replica is replaced as lost, or a pilot called unreachable.
    """

    recovery_grace_s: Seconds = 10.0
    session_linger_s: Seconds = 60.0
    hang_grace_s: Seconds = 10.0
    unreachable_s: Seconds = 4.0
    lease_s: Seconds = 15.0

    def __post_init__(self) -> None:
        if self.recovery_grace_s < RETRY_S:
            consequence = "replicas would be given up"
            raise ValueError(_too_short("recovery_grace_s", RETRY_S, self.recovery_grace_s, consequence))
        if self.unreachable_s < RETRY_S:
            consequence = "replicas that come back would be replaced"
            raise ValueError(_too_short("unreachable_s", RETRY_S, self.unreachable_s, consequence))


class Site(Section, frozen=True, kw_only=True):
    """One facility's configuration, whole. ``required`` names fields that its users must fill in."""

    name: str
    mode: Literal["personal"] = "personal"
    auth: Literal["keys"] = "keys"
    state_dir: Path
    shared_dir: Path
    required: tuple[str, ...] = ()
    network: Network = Network()
    daemon: Daemon = Daemon()
    scheduler: Scheduler = Scheduler()
    pilots: Pilots = Pilots()
    queues: Mapping[str, Queue] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    containers: Containers = Containers()
    budgets: Budgets = Budgets()
    recovery: Recovery = Recovery()

    def __post_init__(self) -> None:
        if self.daemon.placement == "job" and self.scheduler.kind == "local":
            raise ValueError("daemon.placement: 'job' needs a batch scheduler, and scheduler.kind is 'local'")
        for bind in self.containers.binds:
            for name in PATHS:
                ours = getattr(self, name)
                bound = Path(bind.partition(":")[0])
                if bound.is_relative_to(ours) or ours.is_relative_to(bound):
                    raise ValueError(
                        f"containers.binds: {bind!r} would show {name} ({ours}); bind what is needed below it"
                    )


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


def site_names() -> dict[str, str]:
    """The sites that can be named, each with where its file is; the user's own hide shipped ones of the same name."""
    shipped = {_stem(entry.name): f"site_configs/{entry.name}" for entry in files("hpcserve.site_configs").iterdir()}
    own = {_stem(path.name): str(path) for path in (home() / "sites").glob("*.toml") if path.is_file()}
    return {name: place for name, place in sorted({**shipped, **own}.items()) if place.endswith(".toml")}


def _stem(file: str) -> str:
    return file.removesuffix(".toml")


def _read(site: str, but: Sequence[str] = ()) -> SiteFile:
    return parsed(*_found(site, but))


def _found(site: str, but: Sequence[str] = ()) -> tuple[str, str, str]:
    """What to call a site's file, the site's name, and the text.

    Args:
        site: A name or a path.
        but: Files that are not meant by a name.
    """
    if site.endswith(".toml") or "/" in site:
        path = expanded(site)
        return str(path), path.stem, _text(path)
    own = home() / "sites" / f"{site}.toml"
    if os.path.lexists(own) and str(own) not in but:
        return str(own), site, _text(own)
    shipped = files("hpcserve.site_configs").joinpath(f"{site}.toml")
    if not shipped.is_file():
        if str(own) in but:
            raise ConfigError(f"{site!r} leads back to {own}; name another site")
        raise ConfigError(f"no site named {site!r}; known: {', '.join(site_names())}; or give the path of a .toml file")
    return f"site_configs/{site}.toml", site, shipped.read_text()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        told = f"it is a link to {path.readlink()}, which is not there" if path.is_symlink() else str(error)
        raise ConfigError(f"cannot read site file {path}: {told}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read site file {path}: {error}") from error


def _with_bases(site: str) -> list[SiteFile]:
    """The site's file and those that it stands on, the most general one last."""
    found = [_read(site)]
    while (base := found[-1].base) is not None:
        sources = [file.source for file in found]
        try:
            following = _read(base, but=sources)
        except ConfigError as error:
            raise ConfigError(f"{sources[-1]}: base: {error}") from error
        if following.source in sources:
            raise ConfigError(f"{sources[-1]}: base: {base!r} leads back to this file; name another site")
        found.append(following)
    return found


def load_site(option: str | None = None) -> Site:
    """The site that the option, the environment or the default names, with all that it requires.

    Raises:
        ConfigError: There is no such site, its file is wrong, or lacks what the site requires.
    """
    layers = _with_bases(site_named(option))
    site = _site(layers)
    for field in site.required:
        section, _, name = field.partition(".")
        if not getattr(getattr(site, section, None), name, None):
            raise ConfigError(f"{layers[0].source}: {field}: {_fill_in(site.name, layers[0].source, section, name)}")
    return site


def _fill_in(site: str, source: str, section: str, name: str) -> str:
    own = home() / "sites" / f"{site}.toml"
    where = f'{own}, below a line base = "{site}"' if source.startswith("site_configs/") else source
    return f'{site} wants one; set it in {where}: [{section}] {name} = "…"'


def site_text(option: str | None = None) -> tuple[str, str]:
    """What the file of a site is called, and its text, be it right or wrong.

    Raises:
        ConfigError: There is no such site, or its file cannot be read.
    """
    source, _, text = _found(site_named(option))
    return source, text


def read_site(option: str | None = None) -> Site:
    """As :func:`load_site`, but what the site requires may be missing.

    Raises:
        ConfigError: There is no such site, or its file is wrong.
    """
    return _site(_with_bases(site_named(option)))


def _site(layers: Sequence[SiteFile]) -> Site:
    """The site of these files.

    ``state_dir`` and ``shared_dir`` may use ``~`` and ``$NAME``; without them they lie below :func:`home`.
    """
    table: dict[str, Any] = {}
    for layer in reversed(layers):
        table = merged(table, layer.table)
    name = layers[0].name
    table["name"] = layers[0].table.get("name", name)
    table.setdefault("state_dir", str(home() / "sites" / name / "state"))
    table.setdefault("shared_dir", str(home() / "sites" / name / "shared"))
    for key in PATHS:
        if isinstance(table[key], str):
            table[key] = str(expanded(_filled_in(table[key], f"{source_of(layers, key)}: {key}")))
    try:
        with _CONVERTING:
            site = msgspec.convert(table, Site, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(explained(layers, error, _fields)) from error
    for field, queue, limit, told in _beyond(site):
        source, of = source_of(layers, field), source_of(layers, f"queues.{queue}.{limit}")
        where = "" if of == source else f" of {of}"
        raise ConfigError(f"{source}: {field}: {told} (queue {queue!r}{where})")
    return site


def variables_of(option: str | None) -> dict[str, str]:
    """What of the environment a site's daemon needs, wherever it runs: its home, and what the site's paths name.

    Raises:
        ConfigError: There is no such site, or its file is wrong.
    """
    paths = [str(layer.table.get(key, "")) for layer in _with_bases(site_named(option)) for key in PATHS]
    named = {found[1] or found[2] for path in paths for found in _VARIABLE.finditer(path)}
    return {"HPCSERVE_HOME": str(home())} | {name: os.environ[name] for name in sorted(named) if name in os.environ}


def _filled_in(path: str, field: str) -> str:
    """The path with the values of the variables that it names, such as ``$SCRATCH`` or ``${SCRATCH}``."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            raise ConfigError(f"{field}: {path!r}: {name} is not set here; set it, or write the path in full")
        return os.environ[name]

    return _VARIABLE.sub(value, path)


def _beyond(site: Site) -> Iterator[tuple[str, str, str, str]]:
    """The fields of ``[pilots]`` that a queue does not allow, that queue, its limit, and what is wrong with each."""
    pilots = site.pilots
    for name in (pilots.partition, pilots.qos):
        queue = site.queues.get(name)
        if queue is None:
            continue
        most = {
            "walltime_s": "max_walltime_s",
            "nodes": "max_nodes",
            "gpus_per_node": "gpus_per_node",
        }
        for field, limited_by in most.items():
            value, limit = getattr(pilots, field), getattr(queue, limited_by)
            if limit and value > limit:
                yield f"pilots.{field}", name, limited_by, f"expected ≤ {limit:g}, got {value:g}"
        for field in ("nodes", "min_nodes"):
            nodes = getattr(pilots, field)
            if nodes < queue.min_nodes and (nodes or field == "nodes"):
                yield f"pilots.{field}", name, "min_nodes", f"expected ≥ {queue.min_nodes}, got {nodes}"
        if queue.preempt and not pilots.requeue:
            yield "pilots.requeue", name, "preempt", "expected true, since its jobs are preempted, got false"


def own_queues(site: Site) -> list[Queue]:
    """The rules that hold for this site's pilots: those of their partition and of their QOS."""
    return [site.queues[name] for name in (site.pilots.partition, site.pilots.qos) if name in site.queues]


_CONVERTING = threading.Lock()
"""msgspec learns a type when it first converts to it; two threads that make it learn the same one crash the process."""


def _path(kind: type, value: object) -> object:
    """A field that is a Path; msgspec has no type for it."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected a path, got {value!r}")


def _fields(table: str) -> list[str]:
    """All that may stand in a table of a site file; "" is the whole file."""
    tables = {each.name: each.type for each in msgspec.structs.fields(Site)} | {"queues[...]": Queue}
    own = [each.name for each in msgspec.structs.fields(tables[table] if table else Site)]
    return own if table else ["base", *own]


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
