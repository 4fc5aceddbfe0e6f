"""``qsub``: a script and its options become a job, or a refusal. Source: qsub(1B), as far as hpcserve uses it."""

from __future__ import annotations

import getopt
import os
import re
import shlex
import time
from typing import Any

from tests.fakes.pbs_stand_in import refusals, words
from tests.fakes.pbs_stand_in.store import KNOWN_RESOURCES, Job, State

_OPTIONS = "A:J:N:P:S:VW:e:hj:k:l:m:o:p:q:r:v:"
_OF_A_HOST = frozenset({"arch", "host", "mem", "mpiprocs", "ncpus", "ngpus", "ompthreads"})
_SIZE = re.compile(r"(\d+)(b|kb|mb|gb|tb|)", re.IGNORECASE)


def submitted(state: State, argv: list[str], script: str) -> Job:
    """A new job, not yet among the others.

    Raises:
        PbsError: It is refused.
    """
    options = _options(argv, script)
    queue = options.get("q") or next(iter(state["queues"]))
    if queue not in state["queues"]:
        raise refusals.unknown_queue()
    resources, chunks = _resources(options["l"])
    _within_limits(state, queue, resources)
    sequence, now = state["next"], int(time.time())
    name = f"{sequence}{'[]' if 'J' in options else ''}.{state['host']}"
    called = options.get("N", "STDIN")
    held = "h" in options
    after = options.get("depend", "").split(":")[1:]
    return {
        "id": name,
        "sequence": sequence,
        "name": called,
        "owner": f"{state['user']}@{state['host']}",
        "queue": queue,
        "state": "H" if held or after else "Q",
        "substate": 20 if held else 22 if after else 10,
        "hold": "u" if held else "s" if after else "n",
        "resources": resources,
        "chunks": chunks,
        "account": options.get("A"),
        "project": options.get("P", "_pbs_project_default"),
        "output": _output_path(options.get("o"), called, f"o{sequence}", state["host"], array="J" in options),
        "error": _output_path(options.get("e"), called, f"e{sequence}", state["host"], array="J" in options),
        "join": options.get("j", "n"),
        "keep": options.get("k", "n"),
        "umask": options.get("umask"),
        "shell": options.get("S"),
        "rerunnable": options.get("r", "y") == "y",
        "variables": _variables(options, queue, state["host"]),
        "script": script,
        "ctime": now,
        "mtime": now,
        "qtime": now,
        **({} if held or after else {"etime": now}),
        **({"after": after} if after and not held else {}),
        **({"indices": options["J"]} if "J" in options else {}),
    }


def _options(argv: list[str], script: str) -> dict[str, Any]:
    """Those of the script's ``#PBS`` lines, overruled by those of the command line."""
    found: dict[str, Any] = {"l": []}
    lines = []
    for line in script.splitlines():
        if line.startswith("#PBS"):
            lines.append(_split(line.removeprefix("#PBS")))
        elif line.strip() and not line.startswith("#"):
            break
    for words_ in (*lines, argv):
        try:
            options, rest = getopt.getopt(words_, _OPTIONS)
        except getopt.GetoptError as error:
            raise refusals.usage() from error
        if rest:
            raise refusals.usage()
        for option, value in options:
            _take(found, option[1:], value)
    return found


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise refusals.usage() from error


def _take(found: dict[str, Any], option: str, value: str) -> None:
    if option == "l":
        found["l"].append(value)
    elif option == "v":
        found["v"] = [*found.get("v", ()), *value.split(",")]
    elif option == "W":
        for part in value.split(","):
            name, _, given = part.partition("=")
            found[name] = given
    else:
        found[option] = value


def _resources(asked: list[str]) -> tuple[dict[str, int | str], list[dict[str, int]]]:
    """What ``Resource_List`` says, and each chunk's own."""
    select, place, whole = "1", "free", {}
    for line in asked:
        for part in line.split(",") if not line.startswith("select=") else [line]:
            name, _, value = part.partition("=")
            if name == "select":
                select = value
            elif name == "place":
                place = value
            else:
                whole[name] = _resource(name, value)
    if any(line.startswith(("select=", "place=")) for line in asked):
        for name in whole.keys() & _OF_A_HOST:
            raise refusals.not_beside_select(name)
    chunks, parts = [], []
    for part in select.split("+"):
        number, *pairs = part.split(":")
        chunk = {name: _resource(name, value) for name, _, value in (pair.partition("=") for pair in pairs)}
        chunk.setdefault("ncpus", 1)
        parts.append(":".join([number, *(f"{name}={value}" for name, value in chunk.items())]))
        if not number.isdigit() or number == "0":
            raise refusals.illegal_value("select")
        chunks += [{name: value for name, value in chunk.items() if isinstance(value, int)}] * int(number)
    names = sorted({name for chunk in chunks for name in chunk})
    total = {name: sum(chunk.get(name, 0) for chunk in chunks) for name in names}
    listed: dict[str, int | str] = {
        **total, "nodect": len(chunks), "place": place, "select": "+".join(parts), **whole,
    }  # fmt: skip
    return dict(sorted(listed.items())), chunks


def _resource(name: str, value: str) -> int | str:
    if name == "walltime":
        try:
            return words.span(words.seconds_of(value))
        except ValueError as error:
            raise refusals.illegal_value(name) from error
    if name not in KNOWN_RESOURCES:
        raise refusals.unknown_resource(name)
    if name in {"mem", "pmem"}:
        if _SIZE.fullmatch(value) is None:
            raise refusals.illegal_value(name)
        return value
    if name in {"ncpus", "ngpus", "mpiprocs", "ompthreads"}:
        if not value.isdigit():
            raise refusals.illegal_value(name)
        return int(value)
    return value


def _within_limits(state: State, queue: str, resources: dict[str, int | str]) -> None:
    """The queue's ``resources_min`` and ``resources_max``, ``max_queued`` of one user, and whether it is enabled."""
    limits = state["queues"][queue]
    if not limits.get("enabled", True):
        raise refusals.queue_is_disabled()
    for bound, sign in (("resources_max", 1), ("resources_min", -1)):
        for name, value in limits.get(bound, {}).items():
            if name in resources and sign * (_measure(resources[name]) - _measure(value)) > 0:
                raise refusals.over_limits()
    living = [each for each in state["jobs"].values() if each["queue"] == queue and each["state"] != "F"]
    if len(living) >= limits.get("max_queued", len(living) + 1):
        raise refusals.queue_is_full(queue)


def _measure(value: int | str) -> int:
    return value if isinstance(value, int) else words.seconds_of(value)


def _output_path(asked: str | None, name: str, end: str, host: str, *, array: bool) -> str:
    file = f"{name}.{end}" + (".^array_index^" if array else "")
    path = asked or file
    path = path.split(":", 1)[1] if re.match(r"[\w.-]*:", path) else path
    path = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    return f"{host}:{os.path.join(path, file) if os.path.isdir(path) else path}"


def _variables(options: dict[str, Any], queue: str, host: str) -> dict[str, str]:
    found = {
        **{f"PBS_O_{name}": os.environ.get(name, "") for name in ("HOME", "LOGNAME", "PATH", "MAIL", "SHELL")},
        "PBS_O_INTERACTIVE_AUTH_METHOD": "resvport",
        "PBS_O_INTERACTIVE_ENCRYPT_METHOD": "",
        "PBS_O_WORKDIR": os.getcwd(),
        "PBS_O_SYSTEM": "Linux",
    }
    for each in options.get("v", ()):
        name, given, text = each.partition("=")
        found[name] = text if given else os.environ.get(name, "")
    if "V" in options:
        found = {**os.environ, **found}
    return {**found, "PBS_O_QUEUE": queue, "PBS_O_HOST": host}
